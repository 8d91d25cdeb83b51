#include <nlohmann/json.hpp>

#include "tools/bench/bench_report.hpp"

namespace moeref {
namespace {

using Json = nlohmann::ordered_json;

Json number(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json row(const BenchRow& r) {
  const bench::Measurement& m = r.measured;
  Json out{{"shape", r.shape},
           {"tokens", r.layer.tokens},
           {"component", name(m.component)},
           {"pass", r.pass()},
           {"median_ms", m.median_ms},
           {"least_ms", m.least_ms},
           {"most_ms", m.most_ms},
           {"flops", m.flops},
           {"tflops", number(r.tflops())},
           {"gflops_per_core", number(r.gflops_a_core())},
           {"dense_ms", number(m.dense_ms)},
           {"dense_share", number(r.dense_share())},
           {"dense_moved", number(m.dense_moved)},
           {"floor_ms", number(m.floor_ms)},
           {"floor_share", number(r.floor_share())},
           {"memory_bytes", number(m.memory_bytes)},
           {"kept_bytes", number(m.kept_bytes)},
           {"kept_ratio", number(r.kept_ratio())},
           {"imbalance", number(m.imbalance)},
           {"sm_mhz", number(m.sm_mhz)},
           {"watts", number(m.watts)},
           {"celsius", number(m.celsius)}};
  out["kernels"] = m.kernels ? Json(*m.kernels) : Json();
  out["config"] = to_json(r.layer.config);
  return out;
}

}  // namespace

std::string bench_json(const BenchReport& report) {
  Json out{{"format", "moeref-bench"}, {"format_version", 1}, {"moeref", report.moeref}};
  out["commit"] = report.commit.empty() ? Json() : Json(report.commit);
  out["port"] = report.port;
  out["environment"] = Json::object();
  for (const auto& [title, text] : report.environment) out["environment"][title] = text;
  out["repeat"] = report.repeat;
  out["seconds"] = report.seconds;
  out["exit_code"] = report.exit_code();
  out["results"] = Json::array();
  for (const BenchRow& one : report.rows) out["results"].push_back(row(one));
  out["not_measured"] = Json::array();
  for (const BenchFailure& one : report.failures)
    out["not_measured"].push_back({{"shape", one.shape},
                                   {"tokens", one.tokens},
                                   {"component", name(one.component)},
                                   {"reason", one.reason}});
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace moeref
