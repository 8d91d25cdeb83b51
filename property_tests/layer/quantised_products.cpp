// Products of quantised operands in closed form (SPEC 11.1): with weights of zeros and ones an expert shows
// the numbers that its rows become.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/layer/plain_quantiser.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// 1 in the format, where its scales are 1.
int code_of_one(ElementCodec codec) {
  if (codec == ElementCodec::e4m3) return 7 << 3;
  return codec == ElementCodec::e2m1 ? 2 : 9;
}
double stored_one(ScaleType scale) {
  if (scale == ScaleType::e8m0) return 127.0;
  return scale == ScaleType::e4m3 ? 7 << 3 : 1.0;
}

/// The parameter [E, K, N] of zeros, with ones where is_one(k, n) says so, for every expert.
template <typename IsOne>
void set_ones(Call& call, const std::string& name, const ExpertsShape& s, const WeightFormatFacts& f,
              IsOne&& is_one) {
  Tensor &codes = call.tensors.at(name + "_codes"), &scales = call.tensors.at(name + "_scales");
  scales = filled(scales.dtype(), scales.shape(), stored_one(f.scale));
  if (f.expert_scale) {
    Tensor& of_experts = call.tensors.at(name + "_expert_scales");
    of_experts = filled(of_experts.dtype(), of_experts.shape(), 1.0);
  }
  const int zero = f.element == ElementCodec::int4 ? 8 : 0, one = code_of_one(f.element);
  codes = filled(codes.dtype(), codes.shape(), is_packed(f.element) ? zero * 17 : zero);
  for (std::int64_t row = 0; row < s.experts * s.n; ++row)
    for (std::int64_t k = 0; k < s.k; ++k) {
      if (!is_one(k, row % s.n)) continue;
      const std::int64_t at = row * s.k + k;
      if (is_packed(f.element))
        codes.set(at / 2, codes[at / 2] + (one - zero) * (at % 2 == 0 ? 1 : 16));
      else
        codes.set(at, one);
    }
}

/// The columns of x that hidden unit n adds up; they are one where n is odd, so that small numbers show too.
std::int64_t first_of(std::int64_t n, std::int64_t dim) { return n % dim; }
std::int64_t second_of(std::int64_t n, std::int64_t dim) {
  return n % 2 == 0 ? (n * 7 + dim / 2) % dim : first_of(n, dim);
}

/// Few bits, so that some quotients lie half way between codes, at sizes that differ by token and group; at
/// times past 7/8 of a power of two, where scales that are rounded down saturate, and small beside it.
double row_element(const Descriptor& d, std::int64_t t, std::int64_t k, double drawn) {
  int exponent = 0;
  const double fraction = std::frexp(drawn, &exponent);
  const std::int64_t turn = (static_cast<std::int64_t>(d.seed % 64) + 5 * t + k) % 32;
  if (turn == 3) return std::ldexp(31.0, static_cast<int>((t + k / 32) % 4) - 4);
  if (turn == 9) return std::ldexp(3.0, -14);
  return std::ldexp(std::nearbyint(fraction * 64.0), std::clamp(exponent, -3, 1) - 6);
}

void quantised_rows(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d, false);
  const MoEConfig c = parse_moe_config(call.config);
  const std::int64_t dim = c.expert_dim(), width = c.moe_inter_dim;
  const WeightFormatFacts& weights = facts(c.weight_format);
  const ActivationFormatFacts& activations = facts(c.activation_format);
  const auto in_sum = [&](std::int64_t k, std::int64_t n) {
    return k == first_of(n, dim) || k == second_of(n, dim);
  };
  set_ones(call, "params/gate_and_up_projs", c.up_shape(), weights, in_sum);
  set_ones(call, "params/down_projs", c.down_shape(), weights,
           [&](std::int64_t k, std::int64_t n) { return k == n % width; });
  Tensor &x = call.tensors.at("inputs/x"), &routing = call.tensors.at("inputs/weights");
  routing = filled(routing.dtype(), routing.shape(), 1.0);
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, row_element(d, i / dim, i % dim, x[i]));

  const Answer answer(impl, call);
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<double> row, hidden;
    for (std::int64_t k = 0; k < dim; ++k) row.push_back(x[t * dim + k]);
    row = plain_quantised(activations, row);
    for (std::int64_t n = 0; n < width; ++n) {
      const std::int64_t a = first_of(n, dim), b = second_of(n, dim);
      const double sum = row[static_cast<std::size_t>(a)] + (a == b ? 0.0 : row[static_cast<std::size_t>(b)]);
      hidden.push_back(std::max(sum, 0.0));
    }
    hidden = plain_quantised(activations, hidden);
    for (std::int64_t i = 0; i < dim; ++i)
      expect_near("outputs/y", t * dim + i, answer.at("outputs/y", t * dim + i),
                  hidden[static_cast<std::size_t>(i % width)], answer.bound("outputs/y", t * dim + i),
                  "sums of two quantised columns, rectified and quantised again");
  }
}

/// One expert per token, and three groups along each axis; the widths differ, so that groups of hidden rows
/// are others than those of tokens.
void arrange_quantised_rows(Descriptor& d) {
  if (d.config.weight_format == WeightFormat::none)
    d.config.weight_format = kQuantisedFormats[d.seed / 7 % kQuantisedFormats.size()];
  if (d.config.activation_format == ActivationFormat::none)
    d.config.activation_format = kQuantisedActivations[d.seed % kQuantisedActivations.size()];
  const std::int64_t group = facts(d.config.activation_format).group;
  arrange_one_plain_expert(d);
  d.D = std::clamp(d.D, 2 * group + 2, 3 * group);
  d.I = std::clamp(d.I, group + 2, 2 * group);
  d.E = std::min<std::int64_t>(d.E, 3);
  d.T = std::clamp<std::int64_t>(d.T, 2, 5);
}

const Property kQuantisedProductsProperties[] = {
    {"C11",
     "quantised_rows",
     {Component::experts},
     PropertyClass::bounded,
     "with an activation_format, tokens and hidden rows are multiplied as the numbers of their codes and "
     "scales",
     {"rows not quantised", "scale of the next group", "one scale per tensor", "rounding toward zero",
      "no saturation"},
     arrange_quantised_rows,
     quantised_rows,
     Passes::forward},
};

}  // namespace

std::span<const Property> quantised_products_properties() { return kQuantisedProductsProperties; }

}  // namespace moeref
