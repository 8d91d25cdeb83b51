// A file that appears under its own name only when it is whole.
#pragma once

#include <filesystem>

namespace moeref {

/// Writes go to path(), beside the target so that the rename stays on one file system. Removed unless
/// committed.
class TemporaryFile {
 public:
  /// Throws InputError (without the path) when its folder does not exist or cannot be written.
  explicit TemporaryFile(std::filesystem::path target);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// Renames to the target, replacing a file there. Throws InputError (without the path) when that fails.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path path_;
};

}  // namespace moeref
