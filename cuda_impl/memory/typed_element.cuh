// Elements of floating types known at run time only: the gate's tensors come in any mix of them, and all but
// its products spend their time elsewhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// Calls run<Acc>() with what numbers of the type are added in.
template <class Run>
void with_accumulator(DataType type, const Run& run) {
  if (type == DataType::float64)
    run.template operator()<double>();
  else
    run.template operator()<float>();
}

#ifdef __CUDACC__
__device__ inline __nv_bfloat16 to_bfloat16(float v) { return __float2bfloat16_rn(v); }
__device__ inline __half to_float16(float v) { return __float2half_rn(v); }
/// Rounded to odd, which makes a second rounding to 16 bits the only one (Boldo and Melquiond 2008).
__device__ inline float to_odd_float(double v) {
  const float down = __double2float_rz(v);
  const bool exact = static_cast<double>(down) == v || v != v;
  return exact ? down : __uint_as_float(__float_as_uint(down) | 1u);
}
__device__ inline __nv_bfloat16 to_bfloat16(double v) { return to_bfloat16(to_odd_float(v)); }
__device__ inline __half to_float16(double v) { return to_float16(to_odd_float(v)); }

template <class Acc>
__device__ Acc load_element(const void* p, DataType type, std::int64_t i) {
  switch (type) {
    case DataType::bfloat16:
      return static_cast<Acc>(__bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]));
    case DataType::float16:
      return static_cast<Acc>(__half2float(static_cast<const __half*>(p)[i]));
    case DataType::float32:
      return static_cast<Acc>(static_cast<const float*>(p)[i]);
    default:
      break;
  }
  return static_cast<Acc>(static_cast<const double*>(p)[i]);
}

template <class Acc>
__device__ void store_element(void* p, DataType type, std::int64_t i, Acc v) {
  switch (type) {
    case DataType::bfloat16:
      static_cast<__nv_bfloat16*>(p)[i] = to_bfloat16(v);
      return;
    case DataType::float16:
      static_cast<__half*>(p)[i] = to_float16(v);
      return;
    case DataType::float32:
      static_cast<float*>(p)[i] = static_cast<float>(v);
      return;
    default:
      static_cast<double*>(p)[i] = static_cast<double>(v);
  }
}

/// The value that `type` holds when v is stored in it.
template <class Acc>
__device__ Acc round_to(Acc v, DataType type) {
  if (type == DataType::bfloat16) return static_cast<Acc>(__bfloat162float(to_bfloat16(v)));
  if (type == DataType::float16) return static_cast<Acc>(__half2float(to_float16(v)));
  if (type == DataType::float32) return static_cast<Acc>(static_cast<float>(v));
  return v;
}
#endif

}  // namespace moeref::cuda
