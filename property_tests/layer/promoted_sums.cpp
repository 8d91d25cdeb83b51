// Sums of products of codes whose small terms an accumulator of few bits loses (SPEC 11.1): large terms that
// add up to nothing stand beside small ones, which are the whole of the sum.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/layer/plain_quantiser.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kGroup = 128, kInstruction = 32;

/// Column k of a sum of `count` products: the magnitude of a row's code and the sign of a weight's. Each
/// instruction has the largest code with both signs, but that eight positive ones end the first group, and
/// eight negative ones the last whole instruction: the sums between are small, and one sum over all of them
/// is not.
struct SumColumn {
  double magnitude, sign;
};
SumColumn sum_column(std::int64_t k, std::int64_t count) {
  const std::int64_t instruction = k / kInstruction, place = k % kInstruction;
  const bool up = instruction == 3, down = instruction == count / kInstruction - 1;
  if (place < (up || down ? 8 : 2)) return {448.0, down || (!up && place == 1) ? -1.0 : 1.0};
  return {std::ldexp(static_cast<double>(9 + 2 * (k % 4)), -6), 1.0};  // odd multiples of half a last bit
}

/// Scales differ from group to group and make up for each other, so that all products have one size.
double group_factor(std::int64_t k) { return k / kGroup % 2 == 0 ? 1.0 : 2.0; }

/// number(k, n) is a code, scale(k, n) that of its block.
template <typename Number, typename Scale>
void set_weights(Call& call, const std::string& name, const ExpertsShape& s, Number&& number, Scale&& scale) {
  Tensor &codes = call.tensors.at(name + "_codes"), &scales = call.tensors.at(name + "_scales");
  const std::int64_t blocks = scales.extent(2);
  for (std::int64_t i = 0; i < codes.size(); ++i)
    codes.set(i, encode(ElementCodec::e4m3, number(i % s.k, i / s.k % s.n)));
  for (std::int64_t i = 0; i < scales.size(); ++i)
    scales.set(i, scale(i % blocks * kGroup, i / blocks % scales.extent(1) * kGroup));
}

/// Whether the long sums are those of tokens, else those of hidden rows.
bool over_tokens(const Descriptor& d) { return d.seed / 2 % 2 == 0; }

void promoted_sums(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d, false);
  const MoEConfig c = parse_moe_config(call.config);
  const std::int64_t dim = c.expert_dim(), width = c.moe_inter_dim;
  const bool tokens = over_tokens(d);
  const auto sign = [&](std::int64_t k, std::int64_t) { return sum_column(k, tokens ? dim : width).sign; };
  const auto factor = [](std::int64_t k, std::int64_t) { return group_factor(k); };
  const auto one = [](std::int64_t, std::int64_t) { return 1.0; };
  const std::string up = "params/gate_and_up_projs", down = "params/down_projs";
  if (tokens) {
    set_weights(call, up, c.up_shape(), sign, factor);
    set_weights(
        call, down, c.down_shape(),
        [&](std::int64_t k, std::int64_t n) { return k == n % width ? 1.0 : 0.0; }, one);
  } else {
    set_weights(
        call, up, c.up_shape(),
        [&](std::int64_t k, std::int64_t n) { return k == 0 ? sum_column(n, width).magnitude : 0.0; },
        [](std::int64_t, std::int64_t n) { return 1.0 / group_factor(n); });
    set_weights(call, down, c.down_shape(), sign, factor);
  }
  Tensor &x = call.tensors.at("inputs/x"), &routing = call.tensors.at("inputs/weights");
  routing = filled(routing.dtype(), routing.shape(), 1.0);
  // A lone number of which code and scale are exact, whatever the rule of scales.
  const double lone = facts(c.activation_format).scale == ScaleRule::quotient ? 448.0 : 256.0;
  const auto size_of = [&](std::int64_t t) {
    return std::ldexp(1.0, static_cast<int>((static_cast<std::int64_t>(d.seed % 16) + 3 * t) % 9) - 4);
  };
  double sum = 0.0;
  for (std::int64_t k = 0; k < (tokens ? dim : width); ++k) {
    const SumColumn column = sum_column(k, tokens ? dim : width);
    sum += column.magnitude * column.sign;
  }
  for (std::int64_t i = 0; i < x.size(); ++i) {
    const std::int64_t k = i % dim;
    const double number = tokens ? sum_column(k, dim).magnitude / group_factor(k) : k == 0 ? lone : 0.0;
    x.set(i, number * size_of(i / dim));
  }
  const Answer answer(impl, call);
  for (std::int64_t t = 0; t < d.T; ++t) {
    double y = sum * size_of(t) * (tokens ? 1.0 : lone);
    // Hidden units that are all alike become one code.
    if (tokens) y = plain_quantised(facts(c.activation_format), {y}).front();
    for (std::int64_t i = 0; i < dim; ++i)
      expect_near("outputs/y", t * dim + i, answer.at("outputs/y", t * dim + i), y,
                  answer.bound("outputs/y", t * dim + i),
                  "the sum of small products beside large ones that cancel");
  }
}

/// One long axis, of eight groups and a cut one; every accumulator that goes with codes of groups of 128.
void arrange_promoted_sums(Descriptor& d) {
  d.config.weight_format = WeightFormat::fp8_e4m3_block128;
  if (facts(d.config.activation_format).group != kGroup)
    d.config.activation_format =
        d.seed / 4 % 2 == 0 ? ActivationFormat::fp8_e4m3_group128 : ActivationFormat::fp8_e4m3_group128_ue8m0;
  if (d.config.accumulator == Accumulator::float32 && d.seed % 2 == 0)
    d.config.accumulator = Accumulator::e8m13_promoted128;
  arrange_one_plain_expert(d);
  const std::int64_t length = 8 * kGroup + static_cast<std::int64_t>(d.seed % 100);
  d.D = over_tokens(d) ? length : std::clamp<std::int64_t>(d.D, 2, 40);
  d.I = over_tokens(d) ? std::clamp<std::int64_t>(d.I, 2, 40) : length;
  d.E = std::min<std::int64_t>(d.E, 2);
  d.T = std::clamp<std::int64_t>(d.T, 1, 3);
}

const Property kPromotedSumsProperties[] = {
    {"C11",
     "promoted_sums",
     {Component::experts},
     PropertyClass::bounded,
     "sums of products of codes lose what the accumulator that the config names may lose, and no more",
     {"sums of FP8 tensor cores, undeclared", "sums never promoted", "fewer bits", "scale of the next group"},
     arrange_promoted_sums,
     promoted_sums,
     Passes::forward},
};

}  // namespace

std::span<const Property> promoted_sums_properties() { return kPromotedSumsProperties; }

}  // namespace moeref
