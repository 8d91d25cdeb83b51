// A report on disk that is there whole or not at all.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

#include "golden/format/temporary_file.hpp"

namespace moeref {

/// Made before the work, so that a place which cannot be written is told before it and not after.
class ReportFile {
 public:
  /// An empty path = no report is wanted. Throws InputError naming the path that cannot be written.
  explicit ReportFile(const std::filesystem::path& path);

  bool wanted() const { return file_.has_value(); }

  /// Writes under the temporary name and renames. Throws InputError naming the path.
  void write(std::string_view text);

 private:
  std::filesystem::path path_;
  std::optional<TemporaryFile> file_;
};

}  // namespace moeref
