// The part of HDF5 that golden files need: handles that close themselves, text attributes, element types,
// blocks.
#pragma once

#include <hdf5.h>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moeref/golden_file.hpp"

namespace moeref::hdf5 {

/// Owns an HDF5 identifier.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Handle() = default;
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() { reset(); }

  explicit operator bool() const { return id_ >= 0; }
  hid_t get() const { return id_; }

  /// False when closing failed, which for a written file means that data did not reach the disk.
  bool reset() { return id_ < 0 || close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

/// HDF5 prints no error stack while this lives; failures are told by return values.
class Quiet {
 public:
  Quiet();
  ~Quiet();
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

/// A file access list without file locks: golden files are never written in place, and read-only shares
/// refuse locks.
Handle file_access();

/// Opens for reading. Throws InputError (without the path): no such file, not an HDF5 file, truncated or
/// damaged.
Handle open_file(const std::filesystem::path& path);

/// The element type in a file or in memory; bfloat16 and float16 as HDF5's user-defined float types, bool as
/// uint8.
Handle element_type(DType dtype);

/// What element_type would be closest: floats by their width, every integer as int64, h5py's boolean
/// enumeration as bool. Nothing for what is no number (texts, compounds, references).
std::optional<DType> classify(hid_t type);

/// Variable-length UTF-8, as h5py writes texts.
void write_text(hid_t object, const char* attribute, const std::string& text);
void write_integer(hid_t object, const char* attribute, std::int64_t value);

/// Fixed or variable length. Nothing where there is no such attribute; throws InputError naming it when it is
/// no text.
std::optional<std::string> read_text(hid_t object, const std::string& attribute);
std::optional<std::int64_t> read_integer(hid_t object, const std::string& attribute);

/// A part of a row-major array that is a hyperslab and contiguous: elements [first, first + count).
struct Block {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::vector<hsize_t> start, extent;
};

/// Elements of the largest block that for_each_block makes.
inline constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;

/// Cuts an array into blocks, in order. A scalar is one block, an empty array none.
void for_each_block(const Shape& shape, const std::function<void(const Block&)>& visit);

/// The file's dataspace with this block selected, and the memory's: count elements.
std::pair<Handle, Handle> select(hid_t dataset, const Block& block);

/// Control characters, as names in a damaged file may hold, would break a one-line message.
std::string one_line(std::string text);

}  // namespace moeref::hdf5
