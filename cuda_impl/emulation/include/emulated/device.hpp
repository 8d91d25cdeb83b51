// The device language over emulated/block.hpp: included before everything else of a translated .cu file.
#pragma once

#include <math.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <thread>

#include "emulated/block.hpp"

#define __CUDACC__ 1
#define __shared__ static thread_local
#define __grid_constant__
#define threadIdx (::emulated::self->index)
#define blockIdx (::emulated::self->block->index)
#define blockDim (::emulated::self->block->block_dim)
#define gridDim (::emulated::self->block->grid_dim)
#define __syncthreads() ::emulated::wait_for_block(__LINE__)

using std::max;
using std::min;

inline void __syncwarp() { emulated::wait_for_warp("__syncwarp"); }

template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lanes) {
  return emulated::exchange("__shfl_xor_sync", mask, v).of[emulated::self->lane ^ lanes];
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, int lanes) {
  const auto all = emulated::exchange("__shfl_up_sync", mask, v);
  return all.of[emulated::self->lane >= lanes ? emulated::self->lane - lanes : emulated::self->lane];
}
inline unsigned __ballot_sync(unsigned mask, int v) {
  const auto all = emulated::exchange("__ballot_sync", mask, v);
  unsigned out = 0;
  for (int l = 0; l < 32; ++l) out |= (all.present >> l & 1 && all.of[l] != 0 ? 1u : 0u) << l;
  return out;
}
inline bool __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
template <class T>
unsigned __match_any_sync(unsigned mask, T v) {
  const auto all = emulated::exchange("__match_any_sync", mask, v);
  unsigned out = 0;
  for (int l = 0; l < 32; ++l) out |= (all.present >> l & 1 && all.of[l] == v ? 1u : 0u) << l;
  return out;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
  const auto all = emulated::exchange("__reduce_max_sync", mask, v);
  for (int l = 0; l < 32; ++l)
    if (all.present >> l & 1) v = std::max(v, all.of[l]);
  return v;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned v) {
  const auto all = emulated::exchange("__reduce_min_sync", mask, v);
  for (int l = 0; l < 32; ++l)
    if (all.present >> l & 1) v = std::min(v, all.of[l]);
  return v;
}

inline int atomicAdd(int* at, int v) { return std::atomic_ref(*at).fetch_add(v); }
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __nanosleep(unsigned ns) {  // and leaves the core to the ranks that are waited for
  emulated::pause();
  std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
}

/// A load that the device does not do where the address is not aligned to what is loaded.
template <class T>
T load_aligned(const T* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % alignof(T) != 0) emulated::fail("a load that is not aligned");
  return *p;
}
template <class T>
T __ldg(const T* p) {
  return load_aligned(p);
}
template <class T>
T __ldcs(const T* p) {
  return load_aligned(p);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(b) << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i)
    out |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return out;
}
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __ffsll(long long v) {
  return v == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(v)) + 1;
}
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline float __double2float_rz(double v) {
  const auto near = static_cast<float>(v);
  return std::fabs(static_cast<double>(near)) > std::fabs(v) ? std::nextafter(near, 0.0f) : near;
}
// Compiled without contraction: what is written is what is rounded.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
// Fast on the device, exact here.
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float v) { return std::exp(v); }
