// Weights as numbers, for products that want such. Codes run along K and numbers along N: a block turns a
// tile of 128 of K by 64 outputs in shared memory, so that it reads 64 or 128 bytes of each output's codes
// and writes 128 or 256 bytes of each row of numbers, whole lines. Floor: codes, scales and numbers once at
// copy bandwidth; bfloat16 from 4 bits is 2.5 bytes a weight.
//
// A thread has a run, 16 bytes of codes, of each of two neighbouring outputs, whose numbers lie side by side
// when turned: pairs of them go to shared memory. A warp has 4 or 8 runs of 8 or 4 pairs of outputs, and a
// run's place in K moves its pairs to other banks, so that no access of shared memory has a conflict. Nine
// instructions a weight of 4 bits take half the floor's time. Measured on an H200: 0.45 ms for the 604
// million weights of qwen3_30b from mxfp4, floor 0.38; 9.3 for dsv3's, floor 7.1.
#include <cstdint>
#include <type_traits>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/quantization/format_facts.hpp"
#include "cuda_impl/quantization/with_code_format.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kTileN = 64, kTileK = 128, kPairs = kTileN / 2;

/// The float of these bits times 2^exponent: exact, of denormals too.
__device__ __forceinline__ float raised(unsigned bits, int exponent) {
  return __uint_as_float(bits) * __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
}
/// Of code `i` of a word. A code with an exponent goes to where a float's exponent ends and its fraction
/// begins, its sign to the float's: that is the number times a fixed power of two.
template <CodeKind kKind>
__device__ __forceinline__ float number(unsigned word, int i) {
  if constexpr (kKind == CodeKind::e4m3) {
    return raised(static_cast<unsigned>(static_cast<int>(word << (24 - 8 * i)) >> 4) & 0x87f00000u, 120);
  } else if constexpr (kKind == CodeKind::e2m1) {
    return raised(static_cast<unsigned>(static_cast<int>(word << (28 - 4 * i)) >> 6) & 0x81c00000u, 126);
  } else {
    // 2^23 + 16^j * code, by 16^-j, less 2^23 * 16^-j + 8.
    const int j = i % 4;
    const unsigned in_place = ((i < 4 ? word : word >> 16) & 15u << 4 * j) | 0x4b000000u;
    const float unit = 1.0f / static_cast<float>(1 << 4 * j);
    return __fmaf_rn(__uint_as_float(in_place), unit, -8388608.0f * unit - 8.0f);
  }
}

template <class T>
using PairOf = std::conditional_t<std::is_same_v<T, float>, float2,
                                  std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>>;
template <class T>
__device__ __forceinline__ PairOf<T> pair_of(float x, float y) {
  if constexpr (std::is_same_v<T, float>)
    return {x, y};
  else if constexpr (std::is_same_v<T, __half>)
    return __floats2half2_rn(x, y);
  else
    return __floats2bfloat162_rn(x, y);
}

template <WeightFormat kFormat>
struct Matrices {
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int bits = format.bits(), in_word = 32 / bits;
  static constexpr int run = 128 / bits, runs = kTileK / run, threads = kPairs * runs;
  static constexpr int scales_of_run = run > format.block_k ? run / format.block_k : 1;
  static_assert(kTileN % format.block_n == 0 || format.block_n % kTileN == 0);

  const std::uint8_t* codes;
  const void* scales;
  const float* experts;
  int k, n;
  bool in_runs;  // rows of codes are whole runs that are aligned to 16 bytes

  struct Run {
    unsigned words[4], scales[scales_of_run];
  };

  /// Where an output's codes are, its row counted over experts. Rows of 4-bit codes have whole bytes.
  __device__ __forceinline__ const std::uint8_t* place(std::int64_t row, int at) const {
    return codes + (row * k + at) * bits / 8;
  }
  static __device__ __forceinline__ void load_run(Run& to, const std::uint8_t* from) {
    const uint4 four = __ldcs(reinterpret_cast<const uint4*>(from));
    to.words[0] = four.x, to.words[1] = four.y, to.words[2] = four.z, to.words[3] = four.w;
  }
  /// Of rows of any width: behind the end of K the last byte again, since no such number is stored.
  static __device__ __forceinline__ void load_bytes(Run& to, const std::uint8_t* from, int last) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      to.words[word] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) to.words[word] |= unsigned{from[min(word * 4 + i, last)]} << 8 * i;
    }
  }
  /// As they are stored.
  __device__ __forceinline__ void load_scales(Run& to, int e, int output, int at) const {
    const int rows = (n + format.block_n - 1) / format.block_n,
              blocks = (k + format.block_k - 1) / format.block_k;
    const std::int64_t row = (std::int64_t{e} * rows + output / format.block_n) * blocks;
#pragma unroll
    for (int i = 0; i < scales_of_run; ++i) {
      const std::int64_t place = row + min(at / format.block_k + i, blocks - 1);
      if constexpr (format.scale == ScaleKind::float32)
        to.scales[i] = __ldg(static_cast<const unsigned*>(scales) + place);
      else if constexpr (format.scale == ScaleKind::bfloat16)
        to.scales[i] = __ldg(static_cast<const unsigned short*>(scales) + place);
      else
        to.scales[i] = __ldg(static_cast<const std::uint8_t*>(scales) + place);
    }
  }
  static __device__ __forceinline__ float scale(unsigned stored) {
    switch (format.scale) {
      case ScaleKind::float32:
        return __uint_as_float(stored);
      case ScaleKind::bfloat16:
        return __uint_as_float(stored << 16);
      case ScaleKind::e4m3:
        return number<CodeKind::e4m3>(stored, 0);
      case ScaleKind::e8m0:
        break;
    }
    return __uint_as_float(stored == 0 ? 0x400000u : stored << 23);  // 2^-127 has no normal exponent
  }
  static __device__ __forceinline__ float weight(const Run& r, int i, float of_expert) {
    const float scaled =
        number<format.code>(r.words[i / in_word], i % in_word) * scale(r.scales[i * scales_of_run / run]);
    return format.expert_scale ? scaled * of_expert : scaled;
  }
};

template <WeightFormat kFormat, class T>
__global__ void __launch_bounds__(Matrices<kFormat>::threads)
    dequantize_tiles(const Matrices<kFormat> w, T* out, bool in_words) {
  using M = Matrices<kFormat>;
  // So many pairs lie in each bank once; a row of the tile has one or two times as many.
  constexpr int kAtOnce = 64 / sizeof(T);
  __shared__ __align__(16) PairOf<T> turned[kTileK][kPairs];
  const auto column = [](unsigned at, unsigned pair) { return pair ^ at / M::run * (kAtOnce / M::runs); };
  const unsigned thread = threadIdx.x, pair = thread / M::runs, at = thread % M::runs * M::run;
  const int e = static_cast<int>(blockIdx.z), n0 = static_cast<int>(blockIdx.x) * kTileN,
            k0 = static_cast<int>(blockIdx.y) * kTileK;
  const unsigned rows = min(kTileK, w.k - k0), outputs = min(kTileN, w.n - n0);
  if (2 * pair < outputs && at < rows) {
    const int x = n0 + 2 * static_cast<int>(pair), y = min(x + 1, w.n - 1), from = k0 + static_cast<int>(at);
    const std::uint8_t *codes_x = w.place(std::int64_t{e} * w.n + x, from),
                       *codes_y = w.place(std::int64_t{e} * w.n + y, from);
    typename M::Run of_x, of_y;
    if (w.in_runs) {
      M::load_run(of_x, codes_x), M::load_run(of_y, codes_y);
    } else {
      const int last = (w.k - from) / (8 / M::bits) - 1;
      M::load_bytes(of_x, codes_x, last), M::load_bytes(of_y, codes_y, last);
    }
    w.load_scales(of_x, e, x, from);
    w.load_scales(of_y, e, y, from);
    const float of_expert = M::format.expert_scale && w.experts != nullptr ? w.experts[e] : 1.0f;
#pragma unroll
    for (int i = 0; i < M::run; ++i)
      turned[at + i][column(at, pair)] =
          pair_of<T>(M::weight(of_x, i, of_expert), M::weight(of_y, i, of_expert));
  }
  __syncthreads();
  out += (std::int64_t{e} * w.k + k0) * w.n + n0;
  constexpr int kWord = 16 / sizeof(T), kWords = kTileN / kWord, kLines = M::threads / kWords;
  if (in_words) {
    const unsigned line = thread / kWords, first = thread % kWords * kWord, width = w.n;
    if (first >= outputs) return;
    out += first;
#pragma unroll
    for (unsigned i = 0; i < kTileK / kLines; ++i) {
      // Behind the end of K the last row again: a branch would keep loads from going ahead of stores.
      const unsigned row = min(line + i * kLines, rows - 1);
      *reinterpret_cast<uint4*>(out + std::uint64_t{row} * width) =
          *reinterpret_cast<const uint4*>(&turned[row][column(row, first / 2)]);
    }
  } else {
#pragma unroll 1
    for (unsigned i = thread; i < rows * kTileN; i += M::threads) {
      const unsigned row = i / kTileN, output = i % kTileN;
      const PairOf<T> both = turned[row][column(row, output / 2)];
      if (output < outputs) out[std::int64_t{row} * w.n + output] = output % 2 == 0 ? both.x : both.y;
    }
  }
}

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

template <WeightFormat kFormat>
void launch(const QuantizedMatrices& q, DataType dtype, void* out, cudaStream_t stream) {
  using M = Matrices<kFormat>;
  const M w{static_cast<const std::uint8_t*>(q.codes), q.scales.blocks, q.scales.experts, q.k, q.n,
            q.k % M::run == 0 && aligned(q.codes)};
  const auto tiles = [](int width, int of) { return static_cast<unsigned>(width / of + (width % of != 0)); };
  const dim3 grid(tiles(q.n, kTileN), tiles(q.k, kTileK), static_cast<unsigned>(q.experts));
  with_type(dtype, [&]<class T>() {
    const bool in_words = q.n % (16 / sizeof(T)) == 0 && aligned(out);
    dequantize_tiles<kFormat, T><<<grid, M::threads, 0, stream>>>(w, static_cast<T*>(out), in_words);
  });
  check(cudaGetLastError(), "dequantize");
}

}  // namespace

void dequantize(const QuantizedMatrices& q, DataType dtype, void* out, cudaStream_t stream) {
  if (q.format == WeightFormat::none) throw ArgumentError("weight_format is none: want one with codes");
  with_code_format(q.format, [&]<WeightFormat kFormat>() { launch<kFormat>(q, dtype, out, stream); });
}

}  // namespace moeref::cuda
