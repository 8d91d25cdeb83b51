// The benchmark's table, the figures it derives, and its exit code.
#include <gtest/gtest.h>

#include <algorithm>

#include "tools/bench/products.hpp"
#include "tools/bench/tests/sample_bench_report.hpp"
#include "tools/terminal/exit_code.hpp"
#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

using testing::bench_report;
using testing::device_rows;
using testing::processor_rows;

TEST(BenchTableTest, HasARowAPass) {
  const std::string text = bench_table(bench_report({device_rows("qwen3_30b", 16384)}), false);
  EXPECT_EQ(
      text,
      "moeref 1.2.3 (v1.2.3-4-gabcdef0), port cuda, medians of 10\n"
      "device NVIDIA H200, driver 580.1, toolkit 13.0\n"
      "\n"
      "shape      tokens  component  pass        ms  spread     TF  of dense  of floor    memory   kept "
      " imbalance  GFLOP/s a core   MHz    W  kernels\n"
      "qwen3_30b   16384  moe        forward  2.000  75.0 %  300.0     0.750     0.500  1.50 GiB      . "
      "      1.25               .  1515  690  wgmma\n"
      "qwen3_30b   16384  moe        f+b      8.000  18.8 %  225.0     0.562     0.375  1.50 GiB  1.020 "
      "      1.25               .  1515  690  wgmma\n");
}

// The share of a layer tells nothing where what it is held against changes under it.
TEST(BenchTableTest, SaysWhereDenseProductsMoved) {
  std::vector<BenchRow> rows = device_rows("olmoe", 16384);
  for (BenchRow& row : rows) row.measured.dense_moved = kSteadyDense;
  EXPECT_FALSE(holds(bench_table(bench_report({rows}), false), "unsteady"));
  for (BenchRow& row : rows) row.measured.dense_moved = 0.041;
  EXPECT_TRUE(holds(
      bench_table(bench_report({rows}), false),
      "\nunsteady: dense products moved by 4.1 % while olmoe, 16384 tokens, moe ran: do not compare its "
      "shares\n"));
}

TEST(BenchTableTest, WhatDoesNotApplyIsADot) {
  const std::string text = bench_table(bench_report({processor_rows("mine", 64)}), false);
  // 6e11 flops in 2 ms on 2 threads.
  EXPECT_TRUE(
      holds(text,
            "mine       64  moe        forward  2.000  75.0 %   .         .         .       .     .       "
            "1.25      150000.000    .  .  ."))
      << text;
}

TEST(BenchTableTest, SaysWhatWasNotMeasured) {
  BenchReport report = bench_report({device_rows("olmoe", 16384)});
  EXPECT_EQ(report.exit_code(), kExitPassed);
  report.failures.push_back({"dsv3", 8192, Component::experts, "cudaMalloc of 21.00 GiB:\nout of memory"});
  EXPECT_EQ(report.exit_code(), kExitFailed);
  EXPECT_TRUE(holds(bench_table(report, false),
                    "\nnot measured: dsv3, 8192 tokens, experts: cudaMalloc of 21.00 GiB:?out of memory\n"));
  report.crashed = true;
  EXPECT_EQ(report.exit_code(), kExitCrashed);
}

TEST(BenchTableTest, NothingMeasuredIsNoSuccess) {
  const BenchReport report = bench_report({});
  EXPECT_EQ(report.exit_code(), kExitFailed);
  EXPECT_FALSE(holds(bench_table(report, false), "tokens"));
}

TEST(BenchTableTest, FlopsAreThoseOfThePublishedFigures) {
  // qwen3_30b: 6 T k D I = 1.237e12 (1.566 ms at 790 TF in cuda_impl/README.md).
  const bench::Layer layer{device_rows("qwen3_30b", 16384).front().layer};
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::experts, layer), 6.0 * 16384 * 8 * 2048 * 768);
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::moe, layer),
                   bench::forward_flops(Component::experts, layer));
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::gate, layer), 2.0 * 16384 * 2048 * 128);
}

TEST(BenchTableTest, FlopsCountSharedExpertsAndLatentProjections) {
  bench::Layer layer{device_rows("mine", 100).front().layer};
  layer.config.n_shared_experts = 2;
  layer.config.moe_latent_size = 512;
  layer.config.expert_activation = ActivationKind::relu2;  // one up column an inner one
  const double experts = 4.0 * 100 * 8 * 512 * 768, latent = 4.0 * 100 * 2048 * 512,
               shared = 6.0 * 100 * 2048 * (2 * 768);
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::experts, layer), experts);
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::mlp, layer), shared);
  EXPECT_DOUBLE_EQ(bench::forward_flops(Component::moe, layer), experts + latent + shared);
  EXPECT_TRUE(bench::has_part(Component::mlp, layer));
  layer.options.fake_balanced_gate = true;
  EXPECT_FALSE(bench::has_part(Component::gate, layer));
  EXPECT_FALSE(bench::has_part(Component::metrics, layer));
}

}  // namespace
}  // namespace moeref
