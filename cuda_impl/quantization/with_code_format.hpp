// From a weight format to code that is compiled for it: the one list of the formats that have codes.
#pragma once

#include "moeref/cuda/weight_format.hpp"

namespace moeref::cuda {

/// What f.template operator()<format>() returns, of a format that has codes; of `none` a value of that type,
/// and f is not called. F is of the host or of the device, as its caller is.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class F>
__host__ __device__ __forceinline__ auto with_code_format(WeightFormat format, const F& f) {
  using enum WeightFormat;
  switch (format) {
    case none:
      break;
    case fp8_e4m3_block128:
      return f.template operator()<fp8_e4m3_block128>();
    case mxfp8:
      return f.template operator()<mxfp8>();
    case mxfp4:
      return f.template operator()<mxfp4>();
    case nvfp4:
      return f.template operator()<nvfp4>();
    case int4_group32:
      return f.template operator()<int4_group32>();
    case int4_group128:
      return f.template operator()<int4_group128>();
  }
  return decltype(f.template operator()<mxfp4>())();
}

}  // namespace moeref::cuda
