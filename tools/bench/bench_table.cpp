#include <fmt/core.h>

#include <array>
#include <cmath>

#include "tools/bench/bench_report.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

/// Four digits, as far as they are behind the point.
std::string milliseconds(double ms) {
  const int digits = ms < 1.0 ? 4 : ms < 10.0 ? 3 : ms < 100.0 ? 2 : ms < 1000.0 ? 1 : 0;
  return fmt::format("{:.{}f}", ms, digits);
}

std::string memory(double bytes) {
  if (bytes >= 1u << 30) return fmt::format("{:.2f} GiB", bytes / (1u << 30));
  if (bytes >= 1u << 20) return fmt::format("{:.1f} MiB", bytes / (1u << 20));
  return fmt::format("{:.1f} KiB", bytes / 1024.0);
}

struct Column {
  const char* title;
  std::string (*text)(const BenchRow&);
  bool right = true;
};

/// What does not apply.
std::string text_of(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : ".";
}

constexpr std::array kColumns{
    Column{"shape", [](const BenchRow& r) { return r.shape; }, false},
    Column{"tokens", [](const BenchRow& r) { return std::to_string(r.layer.tokens); }},
    Column{"component", [](const BenchRow& r) { return std::string(name(r.measured.component)); }, false},
    Column{"pass", [](const BenchRow& r) { return std::string(r.measured.backward ? "f+b" : "forward"); },
           false},
    Column{"ms", [](const BenchRow& r) { return milliseconds(r.measured.median_ms); }},
    Column{"spread", [](const BenchRow& r) { return fmt::format("{:.1f} %", 100.0 * r.spread()); }},
    Column{"TF", [](const BenchRow& r) { return text_of(r.tflops(), 1); }},
    Column{"of dense", [](const BenchRow& r) { return text_of(r.dense_share(), 3); }},
    Column{"of floor", [](const BenchRow& r) { return text_of(r.floor_share(), 3); }},
    Column{"memory",
           [](const BenchRow& r) {
             return r.measured.memory_bytes ? memory(*r.measured.memory_bytes) : std::string(".");
           }},
    Column{"kept", [](const BenchRow& r) { return text_of(r.kept_ratio(), 3); }},
    Column{"imbalance", [](const BenchRow& r) { return text_of(r.measured.imbalance, 2); }},
    Column{"GFLOP/s a core", [](const BenchRow& r) { return text_of(r.gflops_a_core(), 3); }},
    Column{"MHz", [](const BenchRow& r) { return text_of(r.measured.sm_mhz, 0); }},
    Column{"W", [](const BenchRow& r) { return text_of(r.measured.watts, 0); }},
    Column{"kernels", [](const BenchRow& r) { return r.measured.kernels.value_or("."); }, false},
};

std::string heading(const BenchReport& report) {
  std::string facts;
  for (const auto& [title, text] : report.environment)
    facts += fmt::format("{}{} {}", facts.empty() ? "" : ", ", title, text);
  return fmt::format("moeref {}{}, port {}, medians of {}\n{}\n\n", report.moeref,
                     report.commit.empty() ? "" : " (" + report.commit + ")", report.port, report.repeat,
                     one_line(facts));
}

}  // namespace

std::string bench_table(const BenchReport& report, bool colours) {
  std::vector<Row> rows(1);
  for (const Column& column : kColumns) rows[0].push_back({column.title, Colour::bold, column.right});
  for (const BenchRow& row : report.rows) {
    rows.emplace_back();
    for (const Column& column : kColumns)
      rows.back().push_back({one_line(column.text(row)), Colour::plain, column.right});
  }
  std::string out = heading(report);
  if (!report.rows.empty()) out += columns(rows, colours);
  for (const BenchRow& row : report.rows)
    if (row.measured.dense_moved > kSteadyDense && !row.measured.backward)
      out +=
          coloured("unsteady", Colour::yellow, colours) +
          fmt::format(
              ": dense products moved by {:.1f} % while {}, {} tokens, {} ran: do not compare its shares\n",
              100.0 * *row.measured.dense_moved, one_line(row.shape), row.layer.tokens,
              name(row.measured.component));
  for (std::size_t i = 0; i < report.failures.size(); ++i) {
    if (i == 0) out += "\n";
    const BenchFailure& failure = report.failures[i];
    out += coloured("not measured", Colour::red, colours) +
           fmt::format(": {}, {} tokens, {}: {}\n", one_line(failure.shape), failure.tokens,
                       name(failure.component), one_line(failure.reason));
  }
  return out;
}

}  // namespace moeref
