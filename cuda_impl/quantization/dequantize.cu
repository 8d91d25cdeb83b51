// Weights as numbers, for products that want such: 32 x 32 tiles turned in shared memory, since codes run
// along K and numbers along N. Floor: codes, scales and numbers once at copy bandwidth; bfloat16 from 4 bits
// is 2.5 bytes a weight.
#include <cstdint>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/quantization/format_facts.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kSide = 32, kLines = 8;

template <WeightFormat kFormat>
struct Matrices {
  static constexpr FormatFacts format = facts(kFormat);
  const std::uint8_t* codes;
  const void* scales;
  const float* experts;
  int k, n;

  __device__ static float power_of_two(int exponent) {  // of a normal number
    return __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
  }
  __device__ static float from_e4m3(int code) {
    const int exponent = code >> 3 & 15, fraction = code & 7;
    const float size = exponent == 0 ? static_cast<float>(fraction) * power_of_two(-9)
                                     : static_cast<float>(8 + fraction) * power_of_two(exponent - 10);
    return code & 128 ? -size : size;
  }
  __device__ static float from_e2m1(int code) {
    const int exponent = code >> 1 & 3, fraction = code & 1;
    const float size = exponent == 0 ? static_cast<float>(fraction) * 0.5f
                                     : static_cast<float>(2 + fraction) * power_of_two(exponent - 2);
    return code & 8 ? -size : size;
  }

  __device__ float number(std::int64_t row, int at) const {
    const std::int64_t i = row * k + at;
    if (format.code == CodeKind::e4m3) return from_e4m3(codes[i]);
    const int both = codes[i / 2], code = i % 2 == 0 ? both & 15 : both >> 4;
    return format.code == CodeKind::int4 ? static_cast<float>(code - 8) : from_e2m1(code);
  }
  __device__ float scale(int e, int column, int at) const {
    const std::int64_t rows = (n + format.block_n - 1) / format.block_n,
                       blocks = (k + format.block_k - 1) / format.block_k,
                       i = (e * rows + column / format.block_n) * blocks + at / format.block_k;
    switch (format.scale) {
      case ScaleKind::float32:
        return static_cast<const float*>(scales)[i];
      case ScaleKind::bfloat16:
        return to_float(static_cast<const __nv_bfloat16*>(scales)[i]);
      case ScaleKind::e4m3:
        return from_e4m3(static_cast<const std::uint8_t*>(scales)[i]);
      case ScaleKind::e8m0:
        break;
    }
    const unsigned code = static_cast<const std::uint8_t*>(scales)[i];
    return __uint_as_float(code == 0 ? 0x400000u : code << 23);  // 2^-127 has no normal exponent
  }
  __device__ float weight(int e, int column, int at) const {
    const float scaled = number(std::int64_t{e} * n + column, at) * scale(e, column, at);
    return experts != nullptr ? scaled * experts[e] : scaled;
  }
};

template <WeightFormat kFormat, class T>
__global__ void dequantize_tiles(const Matrices<kFormat> w, T* out) {
  __shared__ float turned[kSide][kSide + 1];
  const int x = threadIdx.x % kSide, y = threadIdx.x / kSide;
  const int tiles_n = (w.n + kSide - 1) / kSide, tiles_k = (w.k + kSide - 1) / kSide;
  const std::int64_t tile = blockIdx.x;
  const int e = static_cast<int>(tile / (std::int64_t{tiles_n} * tiles_k)),
            n0 = static_cast<int>(tile % tiles_n) * kSide,
            k0 = static_cast<int>(tile / tiles_n % tiles_k) * kSide;
  for (int line = y; line < kSide; line += kLines)
    if (n0 + line < w.n && k0 + x < w.k) turned[line][x] = w.weight(e, n0 + line, k0 + x);
  __syncthreads();
  for (int line = y; line < kSide; line += kLines)
    if (k0 + line < w.k && n0 + x < w.n)
      out[(std::int64_t{e} * w.k + k0 + line) * w.n + n0 + x] = from_float<T>(turned[x][line]);
}

template <WeightFormat kFormat>
void launch(const QuantizedMatrices& q, DataType dtype, void* out, cudaStream_t stream) {
  const Matrices<kFormat> w{static_cast<const std::uint8_t*>(q.codes), q.scales.blocks,
                            facts(kFormat).expert_scale ? q.scales.experts : nullptr, q.k, q.n};
  const std::int64_t tiles =
      std::int64_t{q.experts} * ((q.n + kSide - 1) / kSide) * ((q.k + kSide - 1) / kSide);
  with_type(dtype, [&]<class T>() {
    dequantize_tiles<kFormat, T>
        <<<static_cast<unsigned>(tiles), kSide * kLines, 0, stream>>>(w, static_cast<T*>(out));
  });
  check(cudaGetLastError(), "dequantize");
}

}  // namespace

void dequantize(const QuantizedMatrices& q, DataType dtype, void* out, cudaStream_t stream) {
  using enum WeightFormat;
  switch (q.format) {
    case none:
      throw ArgumentError("weight_format is none: want one with codes");
    case fp8_e4m3_block128:
      return launch<fp8_e4m3_block128>(q, dtype, out, stream);
    case mxfp8:
      return launch<mxfp8>(q, dtype, out, stream);
    case mxfp4:
      return launch<mxfp4>(q, dtype, out, stream);
    case nvfp4:
      return launch<nvfp4>(q, dtype, out, stream);
    case int4_group32:
      return launch<int4_group32>(q, dtype, out, stream);
    case int4_group128:
      return launch<int4_group128>(q, dtype, out, stream);
  }
}

}  // namespace moeref::cuda
