// Experts whose products are of two quantised operands (SPEC 11): the bounds hold for honest ports in every
// type, and say enough to tell a port that does not quantise.
//
// MOEREF_BOUNDS_CALLS sets the number of calls per component and type (60 unless told); MOEREF_BOUNDS_TABLE
// prints the worst ratios.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <tuple>

#include "moeref/reference.hpp"
#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/call/conventions.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"
#include "reference_cpu/quantization/tests/quantised_operands.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

std::uint64_t calls_per_type() {
  const char* text = std::getenv("MOEREF_BOUNDS_CALLS");
  return text ? std::strtoull(text, nullptr, 10) : 60;
}

class QuantizedProducts : public testing::TestWithParam<std::tuple<Component, DType>> {};

TEST_P(QuantizedProducts, bounds_hold_for_honest_ports) {
  using enum eager::Order;
  const auto [component, dtype] = GetParam();
  std::map<std::string, double> worst;
  for (std::uint64_t seed = 0; seed < calls_per_type(); ++seed) {
    const Call call = quantised_operands(component, dtype, seed);
    const eager::PortOptions options{seed % 2 == 1,
                                     seed % 3 == 0   ? pairwise
                                     : seed % 3 == 1 ? backward
                                                     : forward,
                                     seed % 5 == 0};
    JudgeOptions judging;
    judging.ambiguity_ceiling = 1.0;
    const CaseVerdict verdict = judge(call, eager::EagerPort(options).run(call), judging);
    for (const TensorVerdict& t : verdict.tensors) worst[t.tensor] = std::max(worst[t.tensor], t.ratio);
    if (const TensorVerdict* failure = verdict.first_failure())
      ADD_FAILURE() << "seed " << seed << " " << described(call, *failure);
  }
  if (std::getenv("MOEREF_BOUNDS_TABLE"))
    for (const auto& [tensor, ratio] : worst)
      std::cout << "| " << name(component) << " | " << name(dtype) << " | " << tensor << " | " << ratio
                << " |\n";
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedProducts,
                         testing::Combine(testing::Values(Component::experts, Component::moe),
                                          testing::Values(DType::float64, DType::float32, DType::bfloat16,
                                                          DType::float16)),
                         [](const auto& info) {
                           return std::string(name(std::get<0>(info.param))) + "_" +
                                  std::string(name(std::get<1>(info.param)));
                         });

/// What a port gives that multiplies codes of weights by rows in numbers.
NamedTensors rows_in_numbers(Call call, bool stages) {
  call.config.erase("activation_format");
  call.backward = false;
  NamedTensors out;
  for (const auto& [name, result] : evaluate(call).results)
    if (name.starts_with("outputs/") || (stages && name.starts_with("stages/")))
      out[name] = Tensor::of(result.shape, std::span<const double>(result.value)).cast(result.dtype);
  return out;
}

double middle_of(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

/// Of ordinary calls: by y alone where the type's roundings are small beside a code's step, by h in all
/// types.
TEST(QuantizedProductsTest, tell_a_port_that_leaves_rows_in_numbers) {
  for (const DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16}) {
    int by_y = 0, by_h = 0, calls = 0;
    std::vector<double> wider;  // the bound of y over that of the first contract
    for (std::uint64_t seed = 0; seed < 24; ++seed) {
      Call call = quantised_operands(Component::experts, dtype, seed, true);
      for (auto it = call.tensors.begin(); it != call.tensors.end();)
        it = it->first.starts_with("cotangents/") ? call.tensors.erase(it) : std::next(it);
      call.backward = false;
      ++calls;
      by_y += judge(call, rows_in_numbers(call, false)).verdict == Verdict::fail;
      by_h += judge(call, rows_in_numbers(call, true)).verdict == Verdict::fail;
      Call first = call;
      first.config.erase("activation_format");
      const BoundedTensor own = evaluate(call).results.at("outputs/y"),
                          numbers = evaluate(first).results.at("outputs/y");
      for (std::size_t i = 0; i < own.bound.size(); ++i)
        if (numbers.bound[i] > 0.0f) wider.push_back(own.bound[i] / numbers.bound[i]);
    }
    if (std::getenv("MOEREF_BOUNDS_TABLE"))
      std::cout << "| " << name(dtype) << " | told by y | " << by_y << " of " << calls << " | by h | " << by_h
                << " | bound of y over the first contract's | " << middle_of(wider) << " |\n";
    EXPECT_EQ(by_h, calls) << name(dtype);
    if (dtype != DType::bfloat16) {
      EXPECT_GE(by_y, dtype == DType::float16 ? calls / 2 : calls) << name(dtype);
    }
  }
}

TEST(QuantizedProductsTest, formats_are_fields_of_the_config) {
  const Call call = quantised_operands(Component::experts, DType::bfloat16, 1);
  EXPECT_EQ(call.config.at("activation_format"), "fp8_e4m3_group128");
  const std::vector<std::string_view> conventions = conventions_of(call);
  EXPECT_NE(std::ranges::find(conventions, "activation_format"), conventions.end());
  check_inputs(call);
  EXPECT_FALSE(dequantized_call(call).config.contains("activation_format"));
}

TEST(QuantizedProductsTest, impossible_pairs) {
  MoEConfig c = small_config(2, 1, 32, 32);
  c.activation_format = ActivationFormat::mxfp8;
  EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }),
            "config field 'activation_format' is \"mxfp8\": want none where weight_format is none: its "
            "products are of two quantised operands");
  c.weight_format = WeightFormat::fp8_e4m3_block128;
  parse_moe_config(to_json(c));
  c.moe_inter_dim = 40;
  EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }),
            "config field 'activation_format' is \"mxfp8\": want moe_inter_dim and dim multiples of 32");
}

TEST(QuantizedProductsTest, sums_are_promoted_where_both_scales_change) {
  MoEConfig c = small_config(2, 1, 32, 32);
  c.accumulator = Accumulator::e8m13_promoted128;
  const std::string error =
      "config field 'accumulator' is \"e8m13_promoted128\": want float32, or weight_format and "
      "activation_format of e4m3 with a scale per 128 columns";
  EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }), error);
  for (const WeightFormat weights : kQuantisedFormats)
    for (const ActivationFormat activations : kQuantisedActivations) {
      c.dim = c.moe_inter_dim = 128;
      c.weight_format = weights;
      c.activation_format = activations;
      const bool fits = weights == WeightFormat::fp8_e4m3_block128 && facts(activations).group == 128;
      EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }), fits ? "no error" : error)
          << facts(weights).name << " " << facts(activations).name;
    }
}

}  // namespace
}  // namespace moeref
