// Rows that products multiply as quantised operands (SPEC.md 11.1).
#pragma once

namespace moeref::cuda {

/// In the order of the call's formats: codes of e4m3, with a scale for each row and so many of its columns.
enum class ActivationFormat { none, fp8_e4m3_group128, fp8_e4m3_group128_ue8m0, mxfp8, mxfp8_rceil };
constexpr int kActivationFormatCount = 5;

/// In what the products of two quantised operands add up: float32 over all of K, or, as Hopper's FP8 tensor
/// cores do, with 13 bits below the largest exponent, each 128 columns' sum to float32. In the order of the
/// call's accumulators.
enum class Accumulator { float32, e8m13_promoted128 };
constexpr int kAccumulatorCount = 2;

/// Columns that share a scale; 0 without one.
constexpr int group_columns(ActivationFormat format) {
  switch (format) {
    case ActivationFormat::none:
      return 0;
    case ActivationFormat::fp8_e4m3_group128:
    case ActivationFormat::fp8_e4m3_group128_ue8m0:
      return 128;
    case ActivationFormat::mxfp8:
    case ActivationFormat::mxfp8_rceil:
      break;
  }
  return 32;
}
/// Whether the last group of a row may be cut short.
constexpr bool cuts_groups(ActivationFormat format) { return group_columns(format) == 128; }

}  // namespace moeref::cuda
