#include "moeref/tensor.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "moeref/error.hpp"

namespace moeref {
namespace {

/// Calls `f` with a typed pointer to the storage; the 16-bit formats come as their bit patterns.
template <typename Bytes, typename F>
decltype(auto) visit(DType dtype, Bytes* bytes, F&& f) {
  using std::conditional_t;
  constexpr bool is_const = std::is_const_v<Bytes>;
  switch (dtype) {
    case DType::float64:
      return f(reinterpret_cast<conditional_t<is_const, const double, double>*>(bytes));
    case DType::float32:
      return f(reinterpret_cast<conditional_t<is_const, const float, float>*>(bytes));
    case DType::int64:
      return f(reinterpret_cast<conditional_t<is_const, const std::int64_t, std::int64_t>*>(bytes));
    case DType::boolean:
    case DType::uint8:
      return f(reinterpret_cast<conditional_t<is_const, const std::uint8_t, std::uint8_t>*>(bytes));
    case DType::bfloat16:
    case DType::float16:
      break;
  }
  return f(reinterpret_cast<conditional_t<is_const, const std::uint16_t, std::uint16_t>*>(bytes));
}

double widen(DType dtype, std::uint16_t bits) {
  return dtype == DType::bfloat16 ? from_bfloat16(bits) : from_float16(bits);
}

template <typename T>
bool holds(DType dtype) {
  if constexpr (std::is_same_v<T, double>) return dtype == DType::float64;
  if constexpr (std::is_same_v<T, float>) return dtype == DType::float32;
  if constexpr (std::is_same_v<T, std::int64_t>) return dtype == DType::int64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return dtype == DType::boolean || dtype == DType::uint8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return dtype == DType::bfloat16 || dtype == DType::float16;
  return false;
}

}  // namespace

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string coordinates(std::int64_t index, const Shape& shape) {
  std::vector<std::int64_t> at(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] <= 0) return "";
    at[axis] = index % shape[axis];
    index /= shape[axis];
  }
  return to_string(at);
}

Tensor::Tensor(DType dtype, Shape shape)
    : dtype_(dtype), shape_(std::move(shape)), size_(element_count(shape_)) {
  for (const std::int64_t extent : shape_)
    if (extent < 0) throw InputError("a tensor of shape " + to_string(shape_) + " has a negative extent");
  data_.resize(static_cast<std::size_t>(size_ * size_of(dtype_)));
}

Tensor Tensor::of(Shape shape, std::span<const double> values) {
  Tensor tensor(DType::float64, std::move(shape));
  if (static_cast<std::int64_t>(values.size()) != tensor.size())
    throw InputError(std::to_string(values.size()) + " values do not fill shape " +
                     to_string(tensor.shape()));
  if (!values.empty()) std::memcpy(tensor.data_.data(), values.data(), values.size_bytes());
  return tensor;
}

Tensor Tensor::of(Shape shape, std::span<const std::int64_t> values) {
  Tensor tensor(DType::int64, std::move(shape));
  if (static_cast<std::int64_t>(values.size()) != tensor.size())
    throw InputError(std::to_string(values.size()) + " values do not fill shape " +
                     to_string(tensor.shape()));
  if (!values.empty()) std::memcpy(tensor.data_.data(), values.data(), values.size_bytes());
  return tensor;
}

Tensor Tensor::over(DType dtype, Shape shape, std::span<const std::byte> bytes,
                    std::shared_ptr<const void> owner) {
  Tensor tensor(dtype, {0});
  tensor.size_ = element_count(shape);
  if (std::ranges::any_of(shape, [](std::int64_t extent) { return extent < 0; }) ||
      static_cast<std::int64_t>(bytes.size()) != tensor.size_ * size_of(dtype))
    throw InputError(std::to_string(bytes.size()) + " bytes are not a " + std::string(moeref::name(dtype)) +
                     " tensor of shape " + to_string(shape));
  tensor.shape_ = std::move(shape);
  tensor.lent_ = bytes;
  tensor.owner_ = std::move(owner);
  return tensor;
}

std::span<std::byte> Tensor::bytes() {
  if (owner_) {
    data_.assign(lent_.begin(), lent_.end());
    lent_ = {};
    owner_.reset();
  }
  return data_;
}

bool operator==(const Tensor& a, const Tensor& b) {
  return a.dtype_ == b.dtype_ && a.shape_ == b.shape_ && std::ranges::equal(a.bytes(), b.bytes());
}

double Tensor::operator[](std::int64_t i) const {
  return visit(dtype_, bytes().data(), [&](const auto* p) -> double {
    if constexpr (std::is_same_v<decltype(p), const std::uint16_t*>)
      return widen(dtype_, p[i]);
    else
      return static_cast<double>(p[i]);
  });
}

void Tensor::set(std::int64_t i, double value) {
  visit(dtype_, bytes().data(), [&](auto* p) {
    using T = std::remove_pointer_t<decltype(p)>;
    if constexpr (std::is_same_v<T, std::uint16_t>)
      p[i] = dtype_ == DType::bfloat16 ? to_bfloat16(value) : to_float16(value);
    else
      p[i] = static_cast<T>(value);
  });
}

void Tensor::read(std::int64_t first, std::span<double> out) const {
  visit(dtype_, bytes().data(), [&](const auto* p) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      if constexpr (std::is_same_v<decltype(p), const std::uint16_t*>)
        out[i] = widen(dtype_, p[first + static_cast<std::int64_t>(i)]);
      else
        out[i] = static_cast<double>(p[first + static_cast<std::int64_t>(i)]);
    }
  });
}

std::vector<double> Tensor::doubles() const {
  std::vector<double> out(static_cast<std::size_t>(size_));
  read(0, out);
  return out;
}

Tensor Tensor::cast(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor out(dtype, shape_);
  for (std::int64_t i = 0; i < size_; ++i) out.set(i, (*this)[i]);
  return out;
}

Tensor Tensor::reshaped(Shape shape) const {
  if (element_count(shape) != size_)
    throw InputError("cannot view shape " + to_string(shape_) + " as " + to_string(shape));
  Tensor out = *this;
  out.shape_ = std::move(shape);
  return out;
}

template <typename T>
std::span<T> Tensor::as() {
  if (!holds<T>(dtype_))
    throw std::logic_error("Tensor::as: a " + std::string(name(dtype_)) + " tensor holds another type");
  return {reinterpret_cast<T*>(bytes().data()), static_cast<std::size_t>(size_)};
}

template <typename T>
std::span<const T> Tensor::as() const {
  if (!holds<T>(dtype_))
    throw std::logic_error("Tensor::as: a " + std::string(name(dtype_)) + " tensor holds another type");
  return {reinterpret_cast<const T*>(bytes().data()), static_cast<std::size_t>(size_)};
}

#define MOEREF_INSTANTIATE(T)            \
  template std::span<T> Tensor::as<T>(); \
  template std::span<const T> Tensor::as<T>() const;
MOEREF_INSTANTIATE(double)
MOEREF_INSTANTIATE(float)
MOEREF_INSTANTIATE(std::int64_t)
MOEREF_INSTANTIATE(std::uint8_t)
MOEREF_INSTANTIATE(std::uint16_t)
#undef MOEREF_INSTANTIATE

const Tensor& require(const NamedTensors& tensors, std::string_view name) {
  if (const Tensor* tensor = find(tensors, name)) return *tensor;
  throw InputError("missing dataset '" + std::string(name) + "'");
}

const Tensor* find(const NamedTensors& tensors, std::string_view name) {
  const auto it = tensors.find(name);
  return it == tensors.end() ? nullptr : &it->second;
}

}  // namespace moeref
