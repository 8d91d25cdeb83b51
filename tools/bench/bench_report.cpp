#include "tools/bench/bench_report.hpp"

#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

std::optional<double> ratio(std::optional<double> of, std::optional<double> to) {
  if (!of || !to || !(*to > 0.0)) return std::nullopt;
  return *of / *to;
}

}  // namespace

std::string_view BenchRow::pass() const { return measured.backward ? "forward+backward" : "forward"; }

std::optional<double> BenchRow::tflops() const {
  if (cores > 0) return std::nullopt;
  return ratio(measured.flops * 1e-9, measured.median_ms);
}

std::optional<double> BenchRow::gflops_a_core() const {
  if (cores == 0) return std::nullopt;
  return ratio(measured.flops * 1e-6 / cores, measured.median_ms);
}

std::optional<double> BenchRow::dense_share() const { return ratio(measured.dense_ms, measured.median_ms); }
std::optional<double> BenchRow::floor_share() const { return ratio(measured.floor_ms, measured.median_ms); }
std::optional<double> BenchRow::kept_ratio() const {
  return ratio(measured.kept_bytes, measured.least_kept_bytes);
}

int BenchReport::exit_code() const {
  if (crashed) return kExitCrashed;
  return failures.empty() && !rows.empty() ? kExitPassed : kExitFailed;
}

std::string bench_commit() {
#ifdef MOEREF_COMMIT
  return MOEREF_COMMIT;
#else
  return "";
#endif
}

}  // namespace moeref
