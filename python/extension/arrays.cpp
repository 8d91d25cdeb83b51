#include "python/extension/arrays.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moeref/error.hpp"

namespace nb = nanobind;

namespace moeref::python {
namespace {

using Given = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

Tensor lent(const std::string& name, nb::handle value) {
  const auto pair = nb::cast<nb::tuple>(value);
  const DType dtype = parse_dtype(nb::cast<std::string>(pair[1]));
  auto array = std::make_shared<Given>(nb::cast<Given>(pair[0]));
  if (static_cast<std::int64_t>(array->itemsize()) != size_of(dtype))
    throw InputError(name + " has elements of " + std::to_string(array->itemsize()) + " bytes, and " +
                     std::string(moeref::name(dtype)) + " has " + std::to_string(size_of(dtype)));
  Shape shape(array->ndim());
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    shape[axis] = static_cast<std::int64_t>(array->shape(axis));
  const std::span bytes(static_cast<const std::byte*>(array->data()), array->nbytes());
  return Tensor::over(dtype, std::move(shape), bytes, std::move(array));
}

nb::dlpack::dtype stored_as(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return nb::dtype<double>();
    case DType::float32:
      return nb::dtype<float>();
    case DType::int64:
      return nb::dtype<std::int64_t>();
    case DType::boolean:
    case DType::uint8:
      return nb::dtype<std::uint8_t>();
    case DType::bfloat16:
    case DType::float16:
      break;
  }
  return nb::dtype<std::uint16_t>();
}

/// A read-only NumPy array over `data`, which `owner` keeps.
nb::object array_over(const void* data, const Shape& shape, nb::dlpack::dtype dtype, nb::handle owner) {
  const std::vector<std::size_t> extents(shape.begin(), shape.end());
  return nb::cast(
      nb::ndarray<nb::numpy, nb::ro>(data, extents.size(), extents.data(), owner, nullptr, dtype));
}

/// An object of Python that holds a value of C++, and where that lies.
template <class T>
std::pair<nb::capsule, const T*> held(T value) {
  auto* kept = new T(std::move(value));
  return {nb::capsule(kept, [](void* memory) noexcept { delete static_cast<T*>(memory); }), kept};
}

}  // namespace

NamedTensors lent_tensors(const nb::dict& arrays) {
  NamedTensors out;
  for (const auto& [key, value] : arrays) {
    const auto name = nb::cast<std::string>(key);
    out.emplace(name, lent(name, value));
  }
  return out;
}

nb::dict arrays_of(const NamedTensors& tensors) {
  nb::dict out;
  for (const auto& [name, tensor] : tensors) {
    const auto [owner, kept] = held(tensor);
    const nb::object array = array_over(kept->bytes().data(), kept->shape(), stored_as(kept->dtype()), owner);
    out[name.c_str()] = nb::make_tuple(array, std::string(moeref::name(kept->dtype())));
  }
  return out;
}

nb::dict arrays_of(Evaluation evaluation) {
  nb::dict out;
  for (auto& [name, result] : evaluation.results) {
    const auto [value_owner, values] = held(std::move(result.value));
    const auto [bound_owner, bounds] = held(std::move(result.bound));
    out[name.c_str()] =
        nb::make_tuple(array_over(values->data(), result.shape, nb::dtype<double>(), value_owner),
                       array_over(bounds->data(), result.shape, nb::dtype<float>(), bound_owner),
                       std::string(moeref::name(result.dtype)));
  }
  return out;
}

}  // namespace moeref::python
