#include "moeref/weight_format.hpp"

#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

static_assert(has_row_per_enumerator<kWeightFormats>());

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

DType stored_in(ScaleType scale) {
  switch (scale) {
    case ScaleType::float32:
      return DType::float32;
    case ScaleType::bfloat16:
      return DType::bfloat16;
    case ScaleType::e8m0:
    case ScaleType::e4m3:
      break;
  }
  return DType::uint8;
}

}  // namespace

std::vector<StoredWeights> stored_weights(WeightFormat format, const ExpertsShape& s) {
  const WeightFormatFacts& f = facts(format);
  const auto bytes = [&](std::int64_t codes) { return is_packed(f.element) ? codes / 2 : codes; };
  const std::int64_t blocks = divide_up(s.k, f.block_k);
  std::vector<StoredWeights> out{
      {"_codes", DType::uint8,
       f.block_axis ? Shape{s.experts, s.n, blocks, bytes(f.block_k)} : Shape{s.experts, s.n, bytes(s.k)}},
      {"_scales", stored_in(f.scale), {s.experts, divide_up(s.n, f.block_n), blocks}}};
  if (f.expert_scale) out.push_back({"_expert_scales", DType::float32, {s.experts}});
  return out;
}

}  // namespace moeref
