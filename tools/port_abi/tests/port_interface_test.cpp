// What goes over the port interface: configs with every field, the shapes of stages, and the example port
// through all of it.
#include <gtest/gtest.h>

#include <algorithm>

#include "moeref/config.hpp"
#include "moeref/golden_file.hpp"
#include "tools/port_abi/call_tensors.hpp"
#include "tools/ports/port.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::vector<fs::path> golden_files() {
  const std::vector<fs::path> folders{MOEREF_CASES, MOEREF_DOCUMENTED_SYSTEM};
  return list_golden_files(folders);
}

TEST(PortInterfaceTest, FullConfigsLoseNothing) {
  for (const fs::path& file : golden_files()) {
    const GoldenHeader header = read_golden_header(file);
    if (header.component == Component::mlp) {
      const MLPConfig config = parse_mlp_config(header.config);
      EXPECT_EQ(to_json(parse_mlp_config(full_json(config))), to_json(config)) << file;
    } else {
      const MoEConfig config = parse_moe_config(header.config);
      EXPECT_EQ(to_json(parse_moe_config(full_json(config))), to_json(config)) << file;
    }
    const json options = full_json(parse_call_options(header.options));
    EXPECT_EQ(full_json(parse_call_options(options)), options) << file;
    for (const auto& [field, value] : header.options.items())
      if (field != "noise" && field != "experts_backend") {
        EXPECT_EQ(options.at(field), value) << file << " " << field;
      }
  }
}

/// Every field that may be left out is written down with any value.
TEST(PortInterfaceTest, FullConfigsHaveEveryField) {
  MoEConfig every;
  every.router_bias = every.expert_bias = every.softmax_before_topk = every.router_weights_fp32 = true;
  every.apply_router_weight_after_down = every.router_weight_uses_score_correction_bias = true;
  every.shared_expert_gate = every.force_e_score_correction_bias = every.enable_routing_replay = true;
  every.expert_activation = every.shared_expert_activation = ActivationKind::relu2;
  every.activation_alpha = every.activation_limit = every.swiglu_limit = 1.5;
  every.dtype = DType::float16;
  every.gate_dtype = DType::float32;
  every.shared_expert_inter_dim = every.moe_latent_size = 3;
  every.norm_denominator = NormDenominator::max_of_sum_and_eps;
  every.norm_eps = every.logit_scale = every.logit_cap = 0.5;
  every.norm_at_top1 = Top1Norm::scores;
  every.group_score = GroupScore::largest;
  every.discarded_groups = DiscardedGroups::zero;
  every.weight_format = WeightFormat::fp8_e4m3_block128;
  every.activation_format = ActivationFormat::fp8_e4m3_group128;
  every.accumulator = Accumulator::e8m13_promoted128;
  every.null_slots = NullSlots::minus_one;
  every.selection_scores = SelectionScores::logits;
  every.router_weight_on_input = every.per_expert_scale = every.clamp_after_activation = true;
  every.centred_bias_update = true;
  every.aux_loss_factor = AuxLossFactor::experts;
  every.aux_loss_sequences = 2;
  every.z_loss_coeff = every.capacity_factor = 0.5;
  every.min_capacity = every.expert_capacity = 2;
  every.capacity_order = CapacityOrder::weight;
  every.norm_after_dropping = every.aux_loss_accumulated = true;
  every.aux_loss_counts = AuxLossCounts::first_choice;
  every.sinkhorn_tolerance = every.router_input_norm_eps = 0.5;
  every.router_input_norm = every.router_jitter = true;
  every.expert_compute_dtype = DType::float16;
  every.bias_update_rule = BiasUpdateRule::quantile;
  every.bias_update_ema = every.batch_loss_coeff = every.global_loss_coeff = 0.5;
  every.situ_beta = every.situ_linear_beta = 2.0;
  every.latent_norm = LatentNorm::before_fc2;
  every.latent_norm_eps = 0.5;
  every.n_identity_experts = every.n_always_selected = 2;
  const json full = full_json(every), written = to_json(every);
  EXPECT_EQ(written.size(), 73u)
      << "a new field: set it above to another value than its default, and write it in full_json()";
  EXPECT_EQ(full, written);
}

/// The table of stages agrees with what the reference gives; the outputs' types hold what it gives.
TEST(PortInterfaceTest, StagesAreTheReferences) {
  std::size_t seen = 0;
  for (const fs::path& file : golden_files()) {
    if (fs::file_size(file) > 200'000) continue;
    const GoldenFile golden = read_golden(file);
    const Evaluation own = evaluate(golden.call);
    const std::vector<TensorSpec> exposed = stages(golden.call);
    for (const TensorSpec& stage : exposed) {
      ASSERT_TRUE(own.results.contains(stage.name)) << file << " " << stage.name;
      const BoundedTensor& mine = own.results.at(stage.name);
      EXPECT_EQ(mine.shape, stage.shape) << file << " " << stage.name;
      EXPECT_LE(unit_roundoff(stage.dtype), unit_roundoff(mine.dtype)) << file << " " << stage.name;
      ++seen;
    }
    const auto known = [&](const std::string& name) {
      return std::ranges::any_of(exposed, [&](const TensorSpec& stage) { return stage.name == name; });
    };
    for (const auto& [name, result] : own.results)
      EXPECT_TRUE(!name.starts_with("stages/") || known(name)) << file << " " << name;
    for (const TensorSpec& output : signature(golden.call).outputs)
      if (is_floating(output.dtype) && own.results.contains(output.name)) {
        EXPECT_LE(unit_roundoff(output.dtype), unit_roundoff(own.results.at(output.name).dtype))
            << file << " " << output.name;
      }
  }
  EXPECT_GT(seen, 400u);
}

TEST(PortInterfaceTest, LibrariesAreImplementations) {
  const auto port =
      as_implementation(open_port(MOEREF_EXAMPLE_PORT, {std::chrono::seconds(60), MOEREF_COMMAND}));
  const fs::path file = fs::path(MOEREF_CASES) / "mlp__swiglu_bias.h5";
  const GoldenFile golden = read_golden(file);
  EXPECT_EQ(port->unsupported(golden.call), std::nullopt);
  const NamedTensors results = port->run(golden.call);
  EXPECT_EQ(judge(golden.call, results).verdict, Verdict::pass);

  const GoldenFile other = read_golden(fs::path(MOEREF_CASES) / "metrics__balanced.h5");
  EXPECT_NE(port->unsupported(other.call), std::nullopt);
  try {
    port->run(other.call);
    FAIL();
  } catch (const PortFailure& failure) {
    EXPECT_EQ(failure.verdict, Verdict::not_supported);
  }
}

}  // namespace
}  // namespace moeref
