// Several files that appear together or not at all.
#pragma once

#include <filesystem>
#include <utility>
#include <vector>

namespace moeref {

/// Files that take their names when all of them are there; those of a run that fails are removed.
class FileBatch {
 public:
  FileBatch() = default;
  ~FileBatch();
  FileBatch(const FileBatch&) = delete;
  FileBatch& operator=(const FileBatch&) = delete;

  /// Where to write `target` for now: beside it, under a name that no listing takes for a golden file.
  std::filesystem::path hidden(const std::filesystem::path& target);

  /// Renames all of them. Throws InputError naming a target where that fails.
  void commit();

 private:
  std::vector<std::pair<std::filesystem::path, std::filesystem::path>> files_;
};

}  // namespace moeref
