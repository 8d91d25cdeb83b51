// Normal numbers of the counter-based generator: one thread for each Box-Muller pair.
//
// Compiled without contraction: the elementary functions of exact_math.hpp give the CPU's bits only if
// nothing turns a * b + c into one operation. Floor: about 250 fp64 operations per pair, 15 ms for 10^9
// elements on an H200.
#include <algorithm>
#include <string>

#include "cuda_impl/memory/typed_element.cuh"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/init.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref::cuda {
namespace {

__global__ void normal_kernel(std::uint64_t seed, std::uint64_t name, double deviation, std::int64_t first,
                              std::int64_t count, DataType type, void* out) {
  const CounterGenerator generator(seed, name);
  const std::int64_t last = first + count, last_pair = (last + 1) / 2;
  for (std::int64_t pair = first / 2 + blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x; pair < last_pair;
       pair += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t even = 2 * pair, odd = even + 1;
    if (even >= first) store_element(out, type, even - first, __dmul_rn(deviation, generator.normal(even)));
    if (odd < last) store_element(out, type, odd - first, __dmul_rn(deviation, generator.normal(odd)));
  }
}

}  // namespace

void init_normal(std::uint64_t seed, std::string_view parameter, double deviation, std::int64_t first,
                 std::int64_t count, DataType type, void* out, cudaStream_t stream) {
  forget_earlier_errors();
  if (first < 0) throw ArgumentError("first is " + std::to_string(first) + ": want 0 or more");
  if (count < 0) throw ArgumentError("count is " + std::to_string(count) + ": want 0 or more");
  if (!(deviation >= 0.0))
    throw ArgumentError("deviation is " + std::to_string(deviation) + ": want 0 or more");
  check_matrix_type(type, "type");
  if (count == 0) return;
  const std::uint64_t name = name_hash("init/" + std::string(parameter));
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(count / 512 + 1, 8192));
  normal_kernel<<<blocks, 256, 0, stream>>>(seed, name, deviation, first, count, type, out);
  check(cudaGetLastError(), "init_normal");
}

}  // namespace moeref::cuda
