// What the kernels know of a weight format: its codes, and which of them share a scale (SPEC.md 11).
#pragma once

#include "moeref/cuda/weight_format.hpp"

namespace moeref::cuda {

enum class CodeKind { e4m3, e2m1, int4 };
enum class ScaleKind { float32, bfloat16, e8m0, e4m3 };

struct FormatFacts {
  CodeKind code;
  ScaleKind scale;
  int block_n, block_k;  // outputs and neighbours along K that share a scale
  bool expert_scale = false;

  constexpr int bits() const { return code == CodeKind::e4m3 ? 8 : 4; }
  constexpr int scale_bytes() const {
    return scale == ScaleKind::float32 ? 4 : scale == ScaleKind::bfloat16 ? 2 : 1;
  }
};

/// Of a format that has codes.
constexpr FormatFacts facts(WeightFormat format) {
  switch (format) {
    case WeightFormat::none:
    case WeightFormat::fp8_e4m3_block128:
      break;
    case WeightFormat::mxfp8:
      return {CodeKind::e4m3, ScaleKind::e8m0, 1, 32};
    case WeightFormat::mxfp4:
      return {CodeKind::e2m1, ScaleKind::e8m0, 1, 32};
    case WeightFormat::nvfp4:
      return {CodeKind::e2m1, ScaleKind::e4m3, 1, 16, true};
    case WeightFormat::int4_group32:
      return {CodeKind::int4, ScaleKind::bfloat16, 1, 32};
    case WeightFormat::int4_group128:
      return {CodeKind::int4, ScaleKind::bfloat16, 1, 128};
  }
  return {CodeKind::e4m3, ScaleKind::float32, 128, 128};
}

}  // namespace moeref::cuda
