// An HDF5 file as a source of datasets, none of whose claims is believed before it is checked.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "golden/format/hdf5_io.hpp"
#include "moeref/golden_file.hpp"

namespace moeref::hdf5 {

/// Elements that a dataset may claim; keeps every later product inside 64 bits.
inline constexpr std::int64_t kMostElements = std::int64_t{1} << 42;

/// Throws InputError (without the file's path) naming the dataset, attribute or link that is wrong.
class Source {
 public:
  using Visit = std::function<void(const std::string& path, hid_t dataset)>;

  explicit Source(const std::filesystem::path& path);

  hid_t file() const { return file_.get(); }

  /// Visits every dataset below the root's groups of these names, sorted by path. Other names are an error if
  /// `strict`. Links to other places are refused.
  void each_dataset(std::span<const std::string_view> groups, bool strict, const Visit& visit) const;

  /// What the file says of a dataset, once it is safe to allocate its memory: its type is one of numbers, its
  /// data lie in the file, and no byte of the file is claimed twice. Call it once a dataset.
  DatasetInfo describe(hid_t dataset, const std::string& path);

 private:
  Handle file_;
  std::uint64_t free_bytes_;  ///< of the file, not yet claimed by a dataset
};

using VisitBlock = std::function<void(std::int64_t first, const Tensor& block)>;

/// All elements in `dtype`, in the blocks of for_each_block: a dataset may be gigabytes. Throws InputError
/// naming an element that `dtype` cannot hold.
void each_block(hid_t dataset, const DatasetInfo& info, DType dtype, const VisitBlock& visit);

}  // namespace moeref::hdf5
