// quantized_call.hpp, and what the reference makes of such calls.
#include "reference_cpu/quantization/quantized_call.hpp"

#include <gtest/gtest.h>

#include <array>

#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/call/conventions.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

/// Five tokens on three experts of which two are chosen, 128 wide and deep, with numbers as weights.
Call plain_call(DType dtype, std::uint64_t seed, Component component = Component::experts) {
  MoEConfig c = small_config(3, 2, 128, 128);
  c.dtype = dtype;
  c.expert_bias = seed % 2 == 0;
  c.apply_router_weight_after_down = seed % 3 == 0;
  Call call{component, to_json(c), nlohmann::json::object(), {}, true};
  const CounterGenerator random(seed, "call");
  std::uint64_t next = 0;
  for (const TensorSpec& spec : signature(component, call.config, call.options, {5}, true).inputs) {
    Tensor tensor(spec.dtype, spec.shape);
    const double scale = spec.name.starts_with("params/") ? 0.1 : 1.0;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      tensor.set(i, spec.dtype == DType::boolean ? 1.0
                    : spec.dtype == DType::int64 ? static_cast<double>((i + i / 2) % 3)
                                                 : random.normal(next++) * scale);
    if (spec.required) call.tensors[spec.name] = std::move(tensor);
  }
  return call;
}

Call quantised(WeightFormat format, DType dtype, std::uint64_t seed) {
  return quantized_call(plain_call(dtype, seed), format);
}

TEST(QuantizedCall, has_codes_in_place_of_weights_and_no_gradient_of_them) {
  const Call call = quantised(WeightFormat::nvfp4, DType::bfloat16, 1);
  EXPECT_EQ(call.config.at("weight_format"), "nvfp4");
  EXPECT_FALSE(call.tensors.contains("params/down_projs"));
  EXPECT_EQ(call.tensors.at("params/down_projs_codes").shape(), (Shape{3, 128, 64}));
  EXPECT_EQ(call.tensors.at("params/gate_and_up_projs_scales").shape(), (Shape{3, 256, 8}));
  EXPECT_EQ(call.tensors.at("params/down_projs_expert_scales").shape(), (Shape{3}));
  check_inputs(call);
  const Evaluation e = evaluate(call);
  EXPECT_TRUE(e.results.contains("grads/x") && e.results.contains("grads/weights"));
  EXPECT_FALSE(e.results.contains("grads/down_projs"));
  EXPECT_EQ(conventions_of(call), (std::vector<std::string_view>{"weight_format"}));
}

/// A block of powers of two is exact in every type: the call with numbers has the same values and bounds.
TEST(QuantizedCall, is_the_call_with_the_numbers_of_its_codes) {
  for (const WeightFormat format : kQuantisedFormats)
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
      const Call call = quantised(format, dtype, 2), numbers = dequantized_call(call);
      check_inputs(numbers);
      const Evaluation a = evaluate(call), b = evaluate(numbers);
      const bool exact = facts(format).scale == ScaleType::e8m0 || dtype == DType::float64;
      for (const char* name : {"outputs/y", "grads/x", "grads/weights", "grads/down_proj_bias"}) {
        EXPECT_EQ(a.results.at(name).value, b.results.at(name).value) << moeref::name(format) << name;
        if (exact) {
          EXPECT_EQ(a.results.at(name).bound, b.results.at(name).bound) << moeref::name(format) << name;
        }
      }
    }
}

TEST(QuantizedCall, of_numbers_is_the_call_itself) {
  const Call call = plain_call(DType::bfloat16, 3);
  EXPECT_EQ(dequantized_call(call).tensors, call.tensors);
}

/// A port that multiplies code by scale in float32 and stores the weight in the call's type.
TEST(QuantizedCall, bounds_hold_for_an_honest_port) {
  for (const WeightFormat format : kQuantisedFormats)
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
      for (std::uint64_t seed = 0; seed < 2; ++seed) {
        const Call call = quantised(format, dtype, seed);
        using enum eager::Order;
        const eager::PortOptions options{seed % 2 == 1, seed % 3 == 0 ? pairwise : forward, false};
        const CaseVerdict verdict = judge(call, eager::EagerPort(options).run(call));
        if (const TensorVerdict* failure = verdict.first_failure())
          ADD_FAILURE() << name(format) << " " << name(dtype) << " seed " << seed << " " << failure->tensor
                        << ": " << failure->finding << " r " << failure->ratio;
      }
}

TEST(QuantizedCall, of_a_layer_and_over_ranks) {
  Call layer = quantized_call(plain_call(DType::float32, 5, Component::moe), WeightFormat::mxfp4);
  EXPECT_TRUE(layer.tensors.contains("params/experts.down_projs_codes"));
  const Evaluation one = evaluate(layer);
  EXPECT_FALSE(one.results.contains("grads/experts.down_projs"));
  EXPECT_EQ(one.results.at("outputs/y").value,
            evaluate(dequantized_call(layer)).results.at("outputs/y").value);
  layer.options["ep_size"] = 3;
  EXPECT_EQ(evaluate(layer).results.at("outputs/y").value, one.results.at("outputs/y").value);
}

TEST(QuantizedCall, refuses) {
  Call call = quantised(WeightFormat::mxfp4, DType::bfloat16, 1);
  call.tensors["params/down_projs_scales"] = Tensor(DType::int64, {3, 128, 4});
  EXPECT_EQ(error_of([&] { check_inputs(call); }),
            "dataset 'params/down_projs_scales' has dtype int64: want uint8");
  Call gate{Component::gate, to_json(small_config(2, 1)), nlohmann::json::object(), {}, false};
  EXPECT_EQ(error_of([&] { quantized_call(gate, WeightFormat::mxfp4); }),
            "component 'gate' has no experts to quantise");
  MoEConfig c = small_config(2, 1, 48, 32);
  c.weight_format = WeightFormat::mxfp8;
  EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }),
            "config field 'weight_format' is \"mxfp8\": want moe_inter_dim and dim multiples of 32");
}

}  // namespace
}  // namespace moeref
