#include "tools/report/report_file.hpp"

#include <fstream>

#include "moeref/error.hpp"

namespace moeref {

ReportFile::ReportFile(const std::filesystem::path& path) : path_(path) {
  if (path.empty()) return;
  if (std::filesystem::is_directory(path))
    throw InputError(path.string() + ": is a folder: want a file name");
  try {
    file_.emplace(path);
  } catch (const InputError& error) {
    throw InputError(path.string() + ": " + error.what());
  }
}

void ReportFile::write(std::string_view text) {
  std::ofstream out(file_->path(), std::ios::binary);
  out.write(text.data(), static_cast<std::streamsize>(text.size()));
  out.close();
  if (!out) throw InputError(path_.string() + ": cannot be written: is the disk full?");
  try {
    file_->commit();
  } catch (const InputError& error) {
    throw InputError(path_.string() + ": " + error.what());
  }
}

}  // namespace moeref
