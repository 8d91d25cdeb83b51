#include "cuda_impl/grouped_gemm/few_rows/products.hpp"

#include "moeref/cuda/error.hpp"

namespace moeref::cuda::few_rows {

const CodeProducts& code_products(WeightFormat format) {
  switch (format) {
    case WeightFormat::none:
      break;
    case WeightFormat::fp8_e4m3_block128:
      return kFp8Block128Products;
    case WeightFormat::mxfp8:
      return kMxfp8Products;
    case WeightFormat::mxfp4:
      return kMxfp4Products;
    case WeightFormat::nvfp4:
      return kNvfp4Products;
    case WeightFormat::int4_group32:
      return kInt4Group32Products;
    case WeightFormat::int4_group128:
      return kInt4Group128Products;
  }
  throw ArgumentError("weight_format is none: want one with codes");
}

}  // namespace moeref::cuda::few_rows
