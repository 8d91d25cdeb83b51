#include "case_check.hpp"

#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstring>

#include "moeref/config.hpp"
#include "moeref/reference.hpp"
#include "terminal.hpp"

namespace moeref {
namespace {

/// Far above the probabilistic error model: no failure, but no honest rounding either.
constexpr double kImprobable = 8.0;

std::string dtype_of(const Call& call) {
  const DType dtype = call.component == Component::mlp ? parse_mlp_config(call.config).dtype
                                                       : parse_moe_config(call.config).dtype;
  return std::string(name(dtype));
}

/// Results that hold digits which no float32 has and equal the fp64 reference in all of them.
bool looks_like_the_reference(const TensorVerdict& verdict, const Tensor& tensor) {
  if (tensor.dtype() != DType::float64 || verdict.ratio > 0.0) return false;
  for (std::int64_t i = 0; i < tensor.size(); ++i)
    if (std::isfinite(tensor[i]) && round_to(DType::float32, tensor[i]) != tensor[i]) return true;
  return false;
}

void add_tensors(CaseReport& report, Subject subject, const CaseVerdict& verdict,
                 const NamedTensors& judged) {
  for (const TensorVerdict& tensor : verdict.tensors) {
    const Tensor* values = find(judged, tensor.tensor);
    report.tensors.push_back({subject, tensor, values ? values->shape() : Shape{}});
    if (tensor.verdict == Verdict::pass && tensor.probable_ratio > kImprobable)
      report.warnings.push_back(
          fmt::format("{} {} is within the bound but {:.3g} times what rounding errors probably make",
                      name(subject), tensor.tensor, tensor.probable_ratio));
  }
}

/// Says so when a port in low precision gives the very numbers of the reference.
void warn_of_the_reference_itself(CaseReport& report, const CaseVerdict& verdict,
                                  const NamedTensors& results) {
  if (report.dtype == name(DType::float64)) return;
  for (const TensorVerdict& tensor : verdict.tensors) {
    const Tensor* values = find(results, tensor.tensor);
    if (!values || !looks_like_the_reference(tensor, *values)) continue;
    report.warnings.push_back(
        fmt::format("port {} equals the fp64 reference to the last bit although the case is in {}: is the "
                    "port calling the reference?",
                    tensor.tensor, report.dtype));
    return;
  }
}

void take_routing(CaseReport& report, const CaseVerdict& verdict) {
  report.tokens = verdict.tokens;
  report.uncertified_tokens = verdict.uncertified_tokens;
  report.tied_tokens = verdict.tied_tokens;
  report.ambiguous_tokens = verdict.ambiguous_tokens;
}

/// The file's own results against the reference: is this golden file right?
void judge_recorded(CaseReport& report, const GoldenFile& golden, const JudgeOptions& options) {
  const CaseVerdict verdict = judge(golden.call, golden.results, options);
  add_tensors(report, Subject::recorded, verdict, golden.results);
  take_routing(report, verdict);
  report.verdict = verdict.verdict;
  if (verdict.verdict == Verdict::fail || !made_by_moeref(golden.producer)) return;
  if (const auto difference = differing_bits(golden.call, golden.results)) {
    report.verdict = Verdict::fail;
    report.finding =
        fmt::format("recorded by {} and not the bits of this reference: {}", golden.producer, *difference);
  }
}

void judge_port(CaseReport& report, const GoldenFile& golden, const PortOutcome& outcome,
                const JudgeOptions& options) {
  // A wrong golden file stays a failure; whether its recorded routing was ambiguous is not about the port.
  const Verdict recorded = report.verdict == Verdict::fail ? Verdict::fail : Verdict::pass;
  report.verdict = worse(recorded, outcome.verdict);
  if (outcome.verdict != Verdict::pass) {
    report.finding += (report.finding.empty() ? "" : "; ") + outcome.finding;
    return;
  }
  const CaseVerdict verdict = judge(golden.call, outcome.results, options);
  add_tensors(report, Subject::port, verdict, outcome.results);
  take_routing(report, verdict);
  warn_of_the_reference_itself(report, verdict, outcome.results);
  report.verdict = worse(recorded, verdict.verdict);
}

}  // namespace

bool made_by_moeref(std::string_view producer) {
  return producer == "moeref" || producer.starts_with("moeref ");
}

std::optional<std::string> differing_bits(const Call& call, const NamedTensors& recorded) {
  const Evaluation own = evaluate(call);
  for (const auto& [name, tensor] : recorded) {
    const auto it = own.results.find(name);
    if (it == own.results.end()) return fmt::format("{} is no result of this call", name);
    const BoundedTensor& reference = it->second;
    if (reference.shape != tensor.shape()) return fmt::format("{} has another shape", name);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const double exact = reference.value[static_cast<std::size_t>(i)], value = tensor[i];
      const double want = is_floating(tensor.dtype()) ? round_to(tensor.dtype(), exact) : exact;
      if (want == value ? std::signbit(want) == std::signbit(value) : std::isnan(want) && std::isnan(value))
        continue;
      return fmt::format("{}{} is {:.17g} where {:.17g} belongs", name, coordinates(i, tensor.shape()), value,
                         want);
    }
  }
  return std::nullopt;
}

CaseReport CaseChecker::check(const std::filesystem::path& file) {
  const auto began = std::chrono::steady_clock::now();
  std::unique_lock lock(one_at_a_time);
  const GoldenFile golden = read_golden(file);
  CaseReport report;
  report.file = file;
  report.case_name = golden.case_name;
  report.component = golden.call.component;
  report.dtype = dtype_of(golden.call);
  report.flags = golden.flags;
  report.repeat =
      fmt::format("moeref validate --port {} {}", shell_word(port.name()), shell_word(file.string()));
  PortOutcome outcome;
  if (!port.is_reference()) outcome = port.run(file, golden.call);
  lock.unlock();

  judge_recorded(report, golden, options);
  if (!port.is_reference()) judge_port(report, golden, outcome, options);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return report;
}

}  // namespace moeref
