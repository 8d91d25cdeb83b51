// Named tensors: what implementations take and give, what golden files hold.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/dtype.hpp"

namespace moeref {

using Shape = std::vector<std::int64_t>;

/// Product of the extents; 1 for a scalar (empty shape).
std::int64_t element_count(const Shape& shape);

/// "[37, 8]".
std::string to_string(const Shape& shape);

/// "[12, 3]": row-major index as coordinates.
std::string coordinates(std::int64_t index, const Shape& shape);

/// A dense row-major array of one dtype that owns its memory, or reads that of others. Elements start as
/// zero.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);

  /// A float64 tensor of these values. Throws InputError if their count is not that of the shape.
  static Tensor of(Shape shape, std::span<const double> values);
  static Tensor of(Shape shape, std::span<const std::int64_t> values);

  /// A tensor over memory that others hold, row-major and aligned for the dtype: `owner` keeps it there for
  /// this tensor and its copies. It is only read: what writes to the tensor copies the elements first.
  /// Throws InputError if the bytes are not those of the shape.
  static Tensor over(DType dtype, Shape shape, std::span<const std::byte> bytes,
                     std::shared_ptr<const void> owner);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t size() const { return size_; }
  std::int64_t extent(std::size_t axis) const { return shape_.at(axis); }

  /// Element `i` in row-major order as a double; exact for every dtype but large int64.
  double operator[](std::int64_t i) const;

  /// Stores `value` rounded to the dtype.
  void set(std::int64_t i, double value);

  /// Elements [first, first + out.size()) as doubles.
  void read(std::int64_t first, std::span<double> out) const;
  std::vector<double> doubles() const;

  /// The same values in another dtype, rounded to nearest even.
  Tensor cast(DType dtype) const;

  /// The same elements under another shape of the same size. Throws InputError otherwise.
  Tensor reshaped(Shape shape) const;

  /// Typed access; T must be the dtype's own type (double, float, uint16_t for both 16-bit formats, int64_t,
  /// uint8_t for bool and uint8). Throws std::logic_error otherwise.
  template <typename T>
  std::span<T> as();
  template <typename T>
  std::span<const T> as() const;

  std::span<std::byte> bytes();
  std::span<const std::byte> bytes() const { return owner_ ? lent_ : std::span<const std::byte>(data_); }

  /// Same dtype, shape and bits.
  friend bool operator==(const Tensor& a, const Tensor& b);

 private:
  DType dtype_ = DType::float64;
  Shape shape_ = {0};
  std::int64_t size_ = 0;
  std::vector<std::byte> data_;        // empty where the memory is that of others
  std::span<const std::byte> lent_;    // empty where it is not
  std::shared_ptr<const void> owner_;  // of the lent memory
};

/// Tensors by the path they have in a golden file: "inputs/x", "params/gate.weight", "cotangents/y",
/// "outputs/y", "grads/x", "stages/logits".
using NamedTensors = std::map<std::string, Tensor, std::less<>>;

/// The tensor of that name. Throws InputError naming it when it is missing.
const Tensor& require(const NamedTensors& tensors, std::string_view name);

/// Null where there is none.
const Tensor* find(const NamedTensors& tensors, std::string_view name);

}  // namespace moeref
