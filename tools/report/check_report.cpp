#include "tools/report/check_report.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tools/report/refusals.hpp"
#include "tools/terminal/exit_code.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

Colour colour_of(const PropertyResult& result) {
  if (result.failed()) return Colour::red;
  return result.run.status == RunStatus::passed ? Colour::green : Colour::faint;
}

std::int64_t failures(const CheckReport& report) {
  return std::ranges::count_if(report.properties, [](const PropertyResult& r) { return r.failed(); });
}

std::int64_t count(const CheckReport& report, RunStatus status) {
  return std::ranges::count(report.properties, status, [](const PropertyResult& r) { return r.run.status; });
}

/// Whether any case was judged.
bool ran(const CheckReport& report) {
  return std::ranges::any_of(report.properties, [](const PropertyResult& r) { return r.run.passed > 0; });
}

nlohmann::ordered_json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

/// How fast a port computes; refusals and discarded draws cost next to nothing and say nothing of it.
std::string rate_text(const RunReport& run) {
  if (run.passed == 0 || run.seconds <= 0.0) return "";
  return fmt::format(" {:8.0f} passed a minute", 60.0 * run.passed / run.seconds);
}

/// Why calls were declined, over all properties.
Refusals refusals_of(const CheckReport& report) {
  std::map<std::string, std::int64_t> counts;
  for (const PropertyResult& result : report.properties)
    for (const auto& [reason, count] : result.run.declined) counts[reason] += count;
  return most_frequent_first(counts);
}

}  // namespace

std::string_view PropertyResult::status() const {
  return port == Verdict::pass || run.status == RunStatus::passed ? name(run.status) : name(port);
}

bool PropertyResult::failed() const {
  return run.status != RunStatus::passed && run.status != RunStatus::not_supported;
}

int CheckReport::exit_code() const {
  for (const PropertyResult& r : properties)
    if (r.failed() && r.port != Verdict::pass) return kExitCrashed;
  return failures(*this) == 0 && unmet.empty() && ran(*this) ? kExitPassed : kExitFailed;
}

std::string repeat_command(const CheckReport& report, const PropertyResult& result) {
  if (!result.run.smallest) return "";
  const std::string scale = report.scale == "small" ? "" : " --scale " + report.scale;
  return fmt::format("moeref check --port {}{} {}", report.shell_port, scale, repeat_line(result.run));
}

std::string property_text(const CheckReport& report, const PropertyResult& result, bool verbose,
                          bool colours) {
  const RunReport& r = result.run;
  std::string out =
      fmt::format("{} {:4} {:32} {:5} passed {:4} discarded {:4} not supported{}\n",
                  coloured(fmt::format("{:13}", result.status()), colour_of(result), colours), r.property->id,
                  r.property->name, r.passed, r.discarded, r.not_supported, rate_text(r));
  if (verbose || r.status == RunStatus::vacuous ||
      (r.status == RunStatus::not_supported && r.not_supported == 0))
    for (const auto& [reason, count] : r.reasons)
      out += fmt::format("              {}{}\n", count > 0 ? fmt::format("{} x ", count) : "", reason);
  if (r.sampling.cases > 0)
    out += fmt::format(
        "              judged by samples: {} cases, {:.2g} of {:.2g} elements, all of a second call's "
        "gradients and {:.2g} elements of a third call, of copies; an error in 5 % of the rows is seen with "
        "probability {:.3f}, in 1 % with {:.2f}, one at a fixed place of a result by token always\n",
        r.sampling.cases, r.sampling.judged, r.sampling.elements, r.sampling.copied, r.sampling.seen(0.05),
        r.sampling.seen(0.01));
  if (!r.smallest) return out;
  out += fmt::format("              {}\n              checks: {}\n              repeat: {}\n",
                     one_line(to_string(r.finding)), r.property->checks, repeat_command(report, result));
  for (const std::string& threshold : r.thresholds) out += fmt::format("              {}\n", threshold);
  if (!result.saved.empty()) out += fmt::format("              saved: {}\n", result.saved);
  return out;
}

std::string summary_text(const CheckReport& report, bool colours) {
  std::string out = refusal_lines(refusals_of(report));
  if (!out.empty()) out.insert(0, "\n");
  for (const std::string& bucket : report.unmet)
    out += fmt::format("{} {}\n", coloured(fmt::format("{:13}", "UNMET"), Colour::red, colours), bucket);
  const bool passed = report.exit_code() == kExitPassed;
  out += fmt::format(
      "\n{} {} of {} properties passed on {}, {} failed, {} not supported, {} kinds of input unmet, seed {}, "
      "{:.1f} s\n",
      coloured(passed ? "PASSED" : "FAILED", passed ? Colour::green : Colour::red, colours),
      count(report, RunStatus::passed), report.properties.size(), report.port, failures(report),
      count(report, RunStatus::not_supported), report.unmet.size(), report.seed, report.seconds);
  return out;
}

std::string json_text(const CheckReport& report) {
  nlohmann::ordered_json out{{"moeref", report.moeref},         {"port", report.port},
                             {"scale", report.scale},           {"seed", report.seed},
                             {"cases", report.cases},           {"seconds", report.seconds},
                             {"exit_code", report.exit_code()}, {"unmet", report.unmet}};
  auto& properties = out["properties"] = nlohmann::ordered_json::array();
  for (const PropertyResult& result : report.properties) {
    const RunReport& r = result.run;
    nlohmann::ordered_json one{
        {"id", r.property->id}, {"property", r.property->name}, {"status", result.status()},
        {"passed", r.passed},   {"discarded", r.discarded},     {"not_supported", r.not_supported},
        {"seconds", r.seconds}, {"reasons", r.reasons},         {"declined", r.declined}};
    if (r.sampling.worst_ratio > 0.0) one["worst_ratio"] = number(r.sampling.worst_ratio);
    if (r.sampling.cases > 0)
      one["sampled"] = {{"cases", r.sampling.cases},
                        {"judged", r.sampling.judged},
                        {"elements", r.sampling.elements},
                        {"copied", r.sampling.copied},
                        {"seen_in_5_percent", r.sampling.seen(0.05)},
                        {"seen_in_1_percent", r.sampling.seen(0.01)}};
    if (r.smallest) {
      one["finding"] = to_string(r.finding);
      one["tensor"] = r.finding.tensor;
      one["index"] = r.finding.index;
      one["value"] = number(r.finding.value);
      one["expected"] = number(r.finding.expected);
      one["bound"] = number(r.finding.bound);
      one["descriptor"] = to_line(*r.smallest);
      one["thresholds"] = r.thresholds;
      one["repeat"] = repeat_command(report, result);
      if (!result.saved.empty()) one["saved"] = result.saved;
    }
    properties.push_back(std::move(one));
  }
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace moeref
