#include "tools/commands/file_batch.hpp"

#include <unistd.h>

#include <string>
#include <system_error>

#include "moeref/error.hpp"

namespace moeref {

namespace fs = std::filesystem;

FileBatch::~FileBatch() {
  std::error_code ignored;
  for (const auto& [hidden, target] : files_) fs::remove(hidden, ignored);
}

fs::path FileBatch::hidden(const fs::path& target) {
  fs::path path = target;
  path += ".partial-" + std::to_string(::getpid());
  return files_.emplace_back(path, target).first;
}

void FileBatch::commit() {
  for (const auto& [hidden, target] : files_) {
    std::error_code error;
    fs::rename(hidden, target, error);
    if (error) throw InputError(target.string() + ": cannot be written: " + error.message());
  }
  files_.clear();
}

}  // namespace moeref
