// wgmma m64nNk16 of bf16 for N = 16, 32 .. 160, 192 and 256, and m64nNk32 of e4m3 for N = 16, 32 .. 128, fp32
// accumulators: the first N / 2 registers of `d`.
#pragma once

#include <cstdint>

namespace moeref::cuda::sm90 {

#define MOEREF_A8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define MOEREF_R16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MOEREF_D16 MOEREF_A8(0)
#define MOEREF_R32 MOEREF_R16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define MOEREF_D32 MOEREF_D16, MOEREF_A8(8)
#define MOEREF_R48 MOEREF_R32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define MOEREF_D48 MOEREF_D32, MOEREF_A8(16)
#define MOEREF_R64 MOEREF_R48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define MOEREF_D64 MOEREF_D48, MOEREF_A8(24)
#define MOEREF_R80 MOEREF_R64 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define MOEREF_D80 MOEREF_D64, MOEREF_A8(32)
#define MOEREF_R96 MOEREF_R80 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define MOEREF_D96 MOEREF_D80, MOEREF_A8(40)
#define MOEREF_R112 MOEREF_R96 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define MOEREF_D112 MOEREF_D96, MOEREF_A8(48)
#define MOEREF_R128 MOEREF_R112 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define MOEREF_D128 MOEREF_D112, MOEREF_A8(56)
#define MOEREF_R144 MOEREF_R128 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define MOEREF_D144 MOEREF_D128, MOEREF_A8(64)
#define MOEREF_R160 MOEREF_R144 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define MOEREF_D160 MOEREF_D144, MOEREF_A8(72)
#define MOEREF_R176 MOEREF_R160 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define MOEREF_D176 MOEREF_D160, MOEREF_A8(80)
#define MOEREF_R192 MOEREF_R176 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define MOEREF_D192 MOEREF_D176, MOEREF_A8(88)
#define MOEREF_R208 MOEREF_R192 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define MOEREF_D208 MOEREF_D192, MOEREF_A8(96)
#define MOEREF_R224 MOEREF_R208 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define MOEREF_D224 MOEREF_D208, MOEREF_A8(104)
#define MOEREF_R240 MOEREF_R224 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define MOEREF_D240 MOEREF_D224, MOEREF_A8(112)
#define MOEREF_R256 MOEREF_R240 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define MOEREF_D256 MOEREF_D240, MOEREF_A8(120)

#define MOEREF_WGMMA(n, a, b, p, ta, tb)                                                \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p                                  \
               ", 0;\n"                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" MOEREF_R##n \
               "}, %" #a ", %" #b ", p, 1, 1, %" #ta ", %" #tb ";\n}\n"                 \
               : MOEREF_D##n                                                            \
               : "l"(desc_a), "l"(desc_b), "r"(accumulate), "n"(TransposeA), "n"(TransposeB))

/// d += A B over 16 of K, or d = A B where `accumulate` is 0. Transpose*: 1 where the operand is MN-major.
template <int N, int TransposeA, int TransposeB, int Registers>
__device__ __forceinline__ void wgmma(float (&d)[Registers], std::uint64_t desc_a, std::uint64_t desc_b,
                                      int accumulate) {
  static_assert((N % 16 == 0 && N <= 160) || N == 192 || N == 256);
  static_assert(N / 2 <= Registers);
  if constexpr (N == 16) MOEREF_WGMMA(16, 8, 9, 10, 11, 12);
  if constexpr (N == 32) MOEREF_WGMMA(32, 16, 17, 18, 19, 20);
  if constexpr (N == 48) MOEREF_WGMMA(48, 24, 25, 26, 27, 28);
  if constexpr (N == 64) MOEREF_WGMMA(64, 32, 33, 34, 35, 36);
  if constexpr (N == 80) MOEREF_WGMMA(80, 40, 41, 42, 43, 44);
  if constexpr (N == 96) MOEREF_WGMMA(96, 48, 49, 50, 51, 52);
  if constexpr (N == 112) MOEREF_WGMMA(112, 56, 57, 58, 59, 60);
  if constexpr (N == 128) MOEREF_WGMMA(128, 64, 65, 66, 67, 68);
  if constexpr (N == 144) MOEREF_WGMMA(144, 72, 73, 74, 75, 76);
  if constexpr (N == 160) MOEREF_WGMMA(160, 80, 81, 82, 83, 84);
  if constexpr (N == 192) MOEREF_WGMMA(192, 96, 97, 98, 99, 100);
  if constexpr (N == 256) MOEREF_WGMMA(256, 128, 129, 130, 131, 132);
}

/// The same for N = 128 with 16 columns of A in registers, as mma.m16n8k16 holds them: K 2 (lane % 4) and the
/// next of rows lane / 4 and 8 below, then the same 8 of K further.
template <int TransposeB>
__device__ __forceinline__ void wgmma_left_in_registers(float (&d)[64], const std::uint32_t (&a)[4],
                                                        std::uint64_t desc_b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MOEREF_R128
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
      : MOEREF_D128
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b), "r"(accumulate), "n"(TransposeB));
}

#define MOEREF_WGMMA_E4M3(n, a, b, p)                                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p                                                     \
               ", 0;\n"                                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" MOEREF_R##n "}, %" #a ", %" #b \
                                                                                        ", p, 1, 1;\n}\n"  \
               : MOEREF_D##n                                                                               \
               : "l"(desc_a), "l"(desc_b), "r"(accumulate))

/// d += A B over 32 of K, or d = A B where `accumulate` is 0; both operands K-major. Sums keep 13 bits below
/// their largest exponent.
template <int N, int Registers>
__device__ __forceinline__ void wgmma_e4m3(float (&d)[Registers], std::uint64_t desc_a, std::uint64_t desc_b,
                                           int accumulate) {
  static_assert(N % 16 == 0 && N <= 128 && N / 2 <= Registers);
  if constexpr (N == 16) MOEREF_WGMMA_E4M3(16, 8, 9, 10);
  if constexpr (N == 32) MOEREF_WGMMA_E4M3(32, 16, 17, 18);
  if constexpr (N == 48) MOEREF_WGMMA_E4M3(48, 24, 25, 26);
  if constexpr (N == 64) MOEREF_WGMMA_E4M3(64, 32, 33, 34);
  if constexpr (N == 80) MOEREF_WGMMA_E4M3(80, 40, 41, 42);
  if constexpr (N == 96) MOEREF_WGMMA_E4M3(96, 48, 49, 50);
  if constexpr (N == 112) MOEREF_WGMMA_E4M3(112, 56, 57, 58);
  if constexpr (N == 128) MOEREF_WGMMA_E4M3(128, 64, 65, 66);
}

#undef MOEREF_WGMMA_E4M3
#undef MOEREF_WGMMA
#undef MOEREF_A8

// Keeps the compiler from moving reads or writes of the accumulator across this point.
template <int Registers>
__device__ __forceinline__ void fence_accumulator(float (&d)[Registers]) {
#pragma unroll
  for (int i = 0; i < Registers; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

}  // namespace moeref::cuda::sm90
