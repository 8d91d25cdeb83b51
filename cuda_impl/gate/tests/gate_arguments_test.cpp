// Impossible gates are exceptions that name the field; these need no device.
#include <gtest/gtest.h>

#include "moeref/cuda/aux_loss.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda::test {
namespace {

template <class Call>
void expect_names(const char* field, const Call& call) {
  try {
    call();
    ADD_FAILURE() << "no error for " << field;
  } catch (const ArgumentError& error) {
    EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
  }
}
void expect_names(const GateConfig& c, const char* field) {
  expect_names(field, [&] { gate_saved_bytes(c); });
}

GateConfig grouped(int experts, int slots, int groups, int limited) {
  GateConfig c{8, 64, experts, slots, ScoreFunction::sigmoid};
  c.groups = groups, c.limited_groups = limited;
  return c;
}

TEST(GateArguments, ErrorsNameTheField) {
  expect_names({-1, 64, 8, 2}, "tokens");
  expect_names({std::int64_t{1} << 43, 64, 8, 2}, "tokens");
  expect_names({8, 0, 8, 2}, "dim");
  expect_names({8, 64, 0, 1}, "experts");
  expect_names({8, 64, 1025, 2}, "experts");
  expect_names({8, 64, 8, 0}, "slots");
  expect_names({8, 64, 8, 9}, "slots");
  expect_names({8, 64, 128, 65}, "slots");
  expect_names(grouped(8, 2, 3, 1), "groups");
  expect_names(grouped(8, 2, 4, 5), "limited_groups");
  expect_names(grouped(8, 3, 4, 1), "slots");
  GateConfig negative{8, 64, 8, 2};
  negative.aux_loss_coeff = -1.0;
  expect_names(negative, "aux_loss_coeff");
  // A group score of two in groups of one: only with a correction bias.
  const float correction[8] = {};
  expect_names("groups", [&] {
    gate_forward(grouped(8, 2, 8, 4), {nullptr, nullptr, correction}, {nullptr}, {nullptr}, nullptr, nullptr,
                 nullptr);
  });
  expect_names("saved", [] {
    gate_backward({8, 64, 8, 2}, {nullptr}, {nullptr}, nullptr, nullptr, DataType::float32, nullptr, {},
                  nullptr, nullptr);
  });
}

TEST(GateArguments, ConventionsThatCannotBe) {
  const auto with = [](const auto& set) {
    GateConfig c{8, 64, 8, 2, ScoreFunction::sigmoid};
    set(c);
    return c;
  };
  expect_names(with([](GateConfig& c) { c.norm_eps = -1.0; }), "norm_eps");
  expect_names(with([](GateConfig& c) { c.logit_scale = 0.0; }), "logit_scale");
  expect_names(with([](GateConfig& c) { c.logit_cap = -1.0; }), "logit_cap");
  expect_names(with([](GateConfig& c) { c.group_sum = -1; }), "group_sum");
  expect_names(with([](GateConfig& c) { c.always_selected = 2; }), "always_selected");
  expect_names(with([](GateConfig& c) { c.always_selected = 1, c.groups = c.limited_groups = 2; }),
               "always_selected");
  expect_names(with([](GateConfig& c) { c.balances = true, c.always_selected = 1; }), "balances");
  expect_names(with([](GateConfig& c) { c.sinkhorn_tolerance = 0.0; }), "sinkhorn_tolerance");
  expect_names(with([](GateConfig& c) { c.loss_sequences = 3, c.aux_loss_coeff = 1.0; }), "loss_sequences");
  expect_names(with([](GateConfig& c) { c.loss_sequences = 2, c.loss_accumulated = true; }),
               "loss_sequences");
  expect_names(with([](GateConfig& c) { c.z_loss_coeff = -1.0; }), "z_loss_coeff");
  expect_names(with([](GateConfig& c) { c.batch_loss_coeff = -1.0; }), "batch_loss_coeff");
  expect_names(with([](GateConfig& c) { c.global_loss_coeff = -1.0; }), "global_loss_coeff");
  expect_names(with([](GateConfig& c) { c.router_input_norm_eps = -1.0; }), "router_input_norm_eps");
  const float correction[8] = {};
  const auto forward = [&](const GateConfig& c) {
    return [&, c] {
      gate_forward(c, {nullptr, nullptr, correction}, {nullptr}, {nullptr}, nullptr, nullptr, nullptr);
    };
  };
  expect_names("groups",
               forward(with([](GateConfig& c) { c.groups = c.limited_groups = 2, c.group_sum = 5; })));
  expect_names("selects_logits",
               forward(with([](GateConfig& c) { c.selects_logits = c.weight_uses_correction = true; })));
  expect_names("noise", forward(with([](GateConfig& c) { c.router_jitter = true; })));
  expect_names("input_scale", forward(with([](GateConfig& c) { c.router_input_norm = true; })));
  expect_names("accumulated_load",
               forward(with([](GateConfig& c) { c.loss_accumulated = true, c.aux_loss_coeff = 1.0; })));
  expect_names("accumulated_load", forward(with([](GateConfig& c) { c.global_loss_coeff = 1.0; })));
  expect_names("balances", forward(with([](GateConfig& c) { c.balances = true; })));
  expect_names("expert_scale", forward(with([](GateConfig& c) { c.per_expert_scale = true; })));
}

TEST(GateArguments, TypesThatNoKernelHas) {
  GateConfig c{8, 64, 8, 2};
  c.precision = DataType::float64;
  EXPECT_GT(gate_saved_bytes(c), 0u);
  c.precision = DataType::int64;
  expect_names(c, "precision");
  c.precision.reset(), c.parameter_type = DataType::float64;
  expect_names(c, "parameter_type");
  c.x_type = DataType::int32;
  expect_names(c, "x_type");
}

TEST(GateArguments, SavedIsTheLogits) {
  const GateConfig c{16384, 2048, 128, 8};
  EXPECT_LE(gate_saved_bytes(c), 16384u * 128 * 2 + 4096);
}

TEST(AuxLossArguments, ErrorsNameTheField) {
  expect_names("tokens", [] { aux_loss_workspace_bytes({-1, 8, 2}); });
  expect_names("experts", [] { aux_loss_workspace_bytes({1, 1025, 2}); });
  expect_names("slots", [] { aux_loss_workspace_bytes({1, 8, 65}); });
  expect_names("scores_type", [] { aux_loss_workspace_bytes({1, 8, 2, DataType::float64}); });
  expect_names("statistics", [] { aux_loss_from_statistics(8, {}, {}, nullptr, nullptr, nullptr); });
  expect_names("sequences", [] { aux_loss_workspace_bytes({8, 8, 2, DataType::float32, true, false, 3}); });
  std::int64_t counts[8] = {};
  double sums[8] = {};
  expect_names("statistics", [&] {
    aux_loss_from_statistics(8, {.first_choice = true}, {counts, counts, sums}, nullptr, nullptr, nullptr);
  });
  expect_names("gradient", [] { aux_loss_backward({8, 8, 2}, nullptr, nullptr, nullptr, nullptr); });
}

}  // namespace
}  // namespace moeref::cuda::test
