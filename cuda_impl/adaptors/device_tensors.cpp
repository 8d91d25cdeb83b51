#include "cuda_impl/adaptors/device_tensors.hpp"

#include <cstring>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr std::size_t kGuard = 256;
constexpr int kGuardByte = 0xa5;

DType host_dtype(Element element) {
  switch (element) {
    case Element::float32:
      return DType::float32;
    case Element::bfloat16:
      return DType::bfloat16;
    case Element::float64:
      return DType::float64;
    case Element::uint8:
      return DType::boolean;
    case Element::int32:
    case Element::int64:
      break;
  }
  return DType::int64;
}

std::size_t up(std::size_t bytes) { return (bytes + kGuard - 1) / kGuard * kGuard; }

}  // namespace

std::size_t bytes_of(Element element) {
  switch (element) {
    case Element::uint8:
      return 1;
    case Element::bfloat16:
      return 2;
    case Element::float32:
    case Element::int32:
      return 4;
    case Element::int64:
    case Element::float64:
      break;
  }
  return 8;
}

Element element_of(DataType type) { return type == DataType::float32 ? Element::float32 : Element::bfloat16; }

DataType data_type(DType dtype) {
  if (dtype == DType::float32) return DataType::float32;
  if (dtype == DType::bfloat16) return DataType::bfloat16;
  throw ArgumentError("dtype is " + std::string(name(dtype)) + ": want float32 or bfloat16");
}

DeviceContext::DeviceContext(const DeviceOptions& options, const CallRanks* ranks)
    : options_(options), ranks_(ranks) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

DeviceContext::~DeviceContext() {
  for (const Allocation& a : allocations_) cudaFreeAsync(a.data, stream_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

// [guard | bytes, and guard bytes up to a multiple of 256 | guard]
void* DeviceContext::allocate(std::size_t bytes, int fill) {
  void* memory = nullptr;
  check(cudaMallocAsync(&memory, up(bytes) + 2 * kGuard, stream_), "cudaMallocAsync");
  char* data = static_cast<char*>(memory);
  allocations_.push_back({data, bytes});
  check(cudaMemsetAsync(data, kGuardByte, up(bytes) + 2 * kGuard, stream_), "cudaMemsetAsync");
  if (bytes > 0) check(cudaMemsetAsync(data + kGuard, fill, bytes, stream_), "cudaMemsetAsync");
  return data + kGuard;
}

DeviceTensor DeviceContext::upload(const Tensor& tensor, Element element) {
  DeviceTensor out{nullptr, element, tensor.shape()};
  const std::size_t bytes = static_cast<std::size_t>(tensor.size()) * bytes_of(element);
  out.data = allocate(bytes, 0xff);
  if (bytes == 0) return out;
  // The host arrays end here: pageable copies return when their source has been read.
  if (element == Element::int32) {
    std::vector<std::int32_t> narrow;
    for (const std::int64_t v : tensor.as<std::int64_t>()) narrow.push_back(static_cast<std::int32_t>(v));
    check(cudaMemcpyAsync(out.data, narrow.data(), bytes, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "upload");
    return out;
  }
  const Tensor cast = tensor.dtype() == host_dtype(element) ? tensor : tensor.cast(host_dtype(element));
  check(cudaMemcpyAsync(out.data, cast.bytes().data(), bytes, cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "upload");
  return out;
}

DeviceTensor DeviceContext::upload(const Tensor* tensor, Element element) {
  return tensor ? upload(*tensor, element) : DeviceTensor{};
}

DeviceTensor DeviceContext::output(Element element, Shape shape) {
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * bytes_of(element);
  return {allocate(bytes, 0xff), element, std::move(shape)};
}

DeviceTensor DeviceContext::zeros(Element element, Shape shape) {
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * bytes_of(element);
  return {allocate(bytes, 0), element, std::move(shape)};
}

void* DeviceContext::workspace(std::size_t bytes) { return allocate(bytes, 0xff); }

Tensor DeviceContext::download(const DeviceTensor& tensor) {
  Tensor out(host_dtype(tensor.element), tensor.shape);
  const std::size_t bytes = static_cast<std::size_t>(tensor.size()) * bytes_of(tensor.element);
  if (bytes == 0) return out;
  std::vector<std::int32_t> narrow(tensor.element == Element::int32 ? tensor.size() : 0);
  void* to = narrow.empty() ? static_cast<void*>(out.bytes().data()) : narrow.data();
  check(cudaMemcpyAsync(to, tensor.data, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "a kernel of the call");
  for (std::size_t i = 0; i < narrow.size(); ++i) out.as<std::int64_t>()[i] = narrow[i];
  return out;
}

void DeviceContext::check_guards() {
  std::vector<unsigned char> bytes;
  const auto untouched = [&](const char* from, std::size_t count) {
    bytes.resize(count);
    check(cudaMemcpyAsync(bytes.data(), from, count, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "a kernel of the call");
    for (const unsigned char b : bytes)
      if (b != kGuardByte) return false;
    return true;
  };
  for (std::size_t i = 0; i < allocations_.size(); ++i) {
    const auto& [data, size] = allocations_[i];
    const bool before = untouched(data, kGuard),
               after = untouched(data + kGuard + size, up(size) - size + kGuard);
    if (!before || !after)
      throw CudaError("allocation " + std::to_string(i) + " of the call (" + std::to_string(size) +
                      " bytes) was written " + (before ? "behind its end" : "before its start"));
  }
}

}  // namespace moeref::cuda
