#include "cuda_impl/adaptors/device_tensors.hpp"

#include <cstring>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr std::size_t kGuard = 256;
constexpr int kGuardByte = 0xa5;

struct TypeRow {
  DType call;
  DataType device;
};
constexpr TypeRow kTypes[] = {{DType::float64, DataType::float64},   {DType::float32, DataType::float32},
                              {DType::bfloat16, DataType::bfloat16}, {DType::float16, DataType::float16},
                              {DType::int64, DataType::int64},       {DType::boolean, DataType::uint8},
                              {DType::uint8, DataType::uint8}};

std::size_t up(std::size_t bytes) { return (bytes + kGuard - 1) / kGuard * kGuard; }

}  // namespace

bool is_computed(DType dtype) {
  for (const TypeRow& row : kTypes)
    if (row.call == dtype) return is_matrix_type(row.device);
  return false;
}

DataType data_type(DType dtype) {
  for (const TypeRow& row : kTypes)
    if (row.call == dtype) return row.device;
  throw ArgumentError("dtype is " + std::string(name(dtype)) + ": no kernel computes in it");
}

DType host_dtype(DataType type) {
  for (const TypeRow& row : kTypes)
    if (row.device == type) return row.call;
  return DType::int64;
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

DeviceTensor DeviceContext::upload(const Tensor& tensor, DataType type) {
  DeviceTensor out{nullptr, type, tensor.shape()};
  const std::size_t bytes = static_cast<std::size_t>(tensor.size()) * bytes_of(type);
  out.data = allocate(bytes, 0xff);
  if (bytes == 0) return out;
  // The host arrays end here: pageable copies return when their source has been read.
  if (type == DataType::int32) {
    std::vector<std::int32_t> narrow;
    for (const std::int64_t v : tensor.as<std::int64_t>()) narrow.push_back(static_cast<std::int32_t>(v));
    check(cudaMemcpyAsync(out.data, narrow.data(), bytes, cudaMemcpyHostToDevice, stream_),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "upload");
    return out;
  }
  const bool same_bytes = data_type(tensor.dtype()) == type;
  const Tensor cast = same_bytes ? tensor : tensor.cast(host_dtype(type));
  check(cudaMemcpyAsync(out.data, cast.bytes().data(), bytes, cudaMemcpyHostToDevice, stream_),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "upload");
  return out;
}

DeviceTensor DeviceContext::upload(const Tensor* tensor, DataType type) {
  return tensor ? upload(*tensor, type) : DeviceTensor{};
}

DeviceTensor DeviceContext::output(DataType type, Shape shape) {
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * bytes_of(type);
  return {allocate(bytes, 0xff), type, std::move(shape)};
}

DeviceTensor DeviceContext::zeros(DataType type, Shape shape) {
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape)) * bytes_of(type);
  return {allocate(bytes, 0), type, std::move(shape)};
}

void* DeviceContext::workspace(std::size_t bytes) { return allocate(bytes, 0xff); }

Tensor DeviceContext::download(const DeviceTensor& tensor) {
  Tensor out(host_dtype(tensor.type), tensor.shape);
  const std::size_t bytes = static_cast<std::size_t>(tensor.size()) * bytes_of(tensor.type);
  if (bytes == 0) return out;
  std::vector<std::int32_t> narrow(tensor.type == DataType::int32 ? tensor.size() : 0);
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
