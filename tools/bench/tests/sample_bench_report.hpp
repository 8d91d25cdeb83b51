// A benchmark report with known numbers.
#pragma once

#include "tools/bench/bench_report.hpp"

namespace moeref::testing {

/// Forward in 2 ms and both passes in 8 ms: 6e11 and 1.8e12 flops, dense 1.5 and 4.5 ms, floors 1 and 3 ms.
inline std::vector<BenchRow> device_rows(const std::string& shape, std::int64_t tokens,
                                         Component component = Component::moe) {
  BenchRow forward;
  forward.shape = shape;
  forward.layer.tokens = tokens;
  forward.layer.config.dim = forward.layer.config.inter_dim = 2048;
  forward.layer.config.moe_inter_dim = 768;
  forward.layer.config.n_routed_experts = 128;
  forward.layer.config.n_activated_experts = 8;
  bench::Measurement& m = forward.measured;
  m.component = component;
  m.median_ms = 2.0, m.least_ms = 1.5, m.most_ms = 3.0, m.flops = 6e11;
  m.dense_ms = 1.5, m.floor_ms = 1.0, m.memory_bytes = 1536.0 * (1 << 20), m.imbalance = 1.25;
  m.dense_moved = 0.01, m.sm_mhz = 1515.0, m.watts = 690.0, m.celsius = 55.0;
  m.kernels = "wgmma";
  BenchRow both = forward;
  both.measured.backward = true;
  both.measured.median_ms = 8.0, both.measured.flops = 1.8e12;
  both.measured.dense_ms = 4.5, both.measured.floor_ms = 3.0;
  both.measured.kept_bytes = 1020.0, both.measured.least_kept_bytes = 1000.0;
  return {forward, both};
}

/// The same times by two threads of a processor, without what only devices have.
inline std::vector<BenchRow> processor_rows(const std::string& shape, std::int64_t tokens) {
  std::vector<BenchRow> rows = device_rows(shape, tokens);
  for (BenchRow& row : rows) {
    bench::Measurement& m = row.measured;
    row.cores = 2;
    m.dense_ms = m.floor_ms = m.memory_bytes = m.kept_bytes = m.least_kept_bytes = std::nullopt;
    m.dense_moved = m.sm_mhz = m.watts = m.celsius = std::nullopt;
    m.kernels = std::nullopt;
  }
  return rows;
}

inline BenchReport bench_report(std::vector<std::vector<BenchRow>> parts) {
  BenchReport report;
  report.moeref = "1.2.3", report.commit = "v1.2.3-4-gabcdef0", report.port = "cuda", report.repeat = 10;
  report.environment = {{"device", "NVIDIA H200"}, {"driver", "580.1"}, {"toolkit", "13.0"}};
  report.seconds = 1.5;
  for (std::vector<BenchRow>& part : parts) report.rows.insert(report.rows.end(), part.begin(), part.end());
  return report;
}

}  // namespace moeref::testing
