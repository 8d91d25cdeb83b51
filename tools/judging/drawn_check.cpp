#include "tools/judging/drawn_check.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "golden/catalogue/drawn_case.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/verdict/sampled.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

/// The case says only a little of such results; the samples say more where the port gave them.
constexpr SampleSize kFew{.tokens = 4, .experts = 1, .units = 1};

Call drawn_from(const DrawnCase& drawn, const std::filesystem::path& file, bool forward_only) {
  try {
    Call call = draw_call(drawn);
    if (!forward_only) return call;
    call.backward = false;
    std::erase_if(call.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
    return call;
  } catch (const InputError& error) {
    throw InputError(file.string() + ": " + error.what());
  }
}

/// The elements of one result that the file has.
TensorVerdict judge_samples(const std::string& name, const Tensor& tensor,
                            const std::vector<ResultSample>& samples) {
  TensorVerdict out;
  out.tensor = name;
  out.elements = static_cast<std::int64_t>(samples.size());
  for (const ResultSample& sample : samples) {
    if (sample.index < 0 || sample.index >= tensor.size()) {
      out.ratio = INFINITY;
      out.finding = fmt::format("has {} elements, and the file one of index {}", tensor.size(), sample.index);
      break;
    }
    const double value = tensor[sample.index], r = value_ratio(value, sample.value, sample.bound);
    if (out.index >= 0 && !(r > out.ratio)) continue;
    out.ratio = r;
    out.index = sample.index;
    out.value = value;
    out.reference = sample.value;
    out.bound = sample.bound;
  }
  if (out.ratio > 1.0) {
    out.verdict = Verdict::fail;
    if (out.finding.empty()) out.finding = "outside the bound that the file has";
  }
  out.own_ratio = out.probable_ratio = out.ratio;
  return out;
}

void add(CaseReport& report, Subject subject, const TensorVerdict& verdict, const NamedTensors& results) {
  const Tensor* tensor = find(results, verdict.tensor);
  report.tensors.push_back({subject, verdict, tensor ? tensor->shape() : Shape{}});
  report.verdict = worse(report.verdict, verdict.verdict);
}

void judge_port(CaseReport& report, const DrawnCase& drawn, const Call& call, Port& port,
                const PortOutcome& outcome, JudgeOptions options) {
  report.verdict = outcome.verdict;
  report.finding = outcome.verdict == Verdict::pass ? "" : outcome.finding;
  report.warnings = outcome.warnings;
  if (outcome.results.empty()) return;
  if (const Capabilities* has = port.capabilities()) options.lowest_id_first = has->lowest_id_first;
  // The file's bounds are those of float32 products.
  const Float32Products products = declared_by(port).float32_products;
  const Call judged = products == Float32Products::float32 ? call : as_judged(call, products);
  const SampledVerdict sampled = SampledJudge(judged, outcome.results, kFew).judge(nullptr, nullptr, options);
  for (const TensorVerdict& verdict : sampled.verdict.tensors)
    add(report, Subject::port, verdict, outcome.results);
  report.tokens = sampled.verdict.tokens;
  report.uncertified_tokens = sampled.verdict.uncertified_tokens;
  report.ambiguous_tokens = sampled.verdict.ambiguous_tokens;
  if (products != Float32Products::float32) return;
  for (const auto& [name, samples] : drawn.samples)
    if (const Tensor* tensor = find(outcome.results, name))
      add(report, Subject::port, judge_samples(name, *tensor, samples), outcome.results);
}

/// Whether the file holds what this reference computes.
void judge_recorded(CaseReport& report, const DrawnCase& drawn) {
  const DrawnCase now = make_drawn_case(drawn.spec);
  for (const auto& [name, samples] : now.samples) {
    TensorVerdict verdict;
    verdict.tensor = name;
    verdict.elements = static_cast<std::int64_t>(samples.size());
    const auto recorded = drawn.samples.find(name);
    if (recorded == drawn.samples.end() || recorded->second != samples) {
      verdict.verdict = Verdict::fail;
      verdict.finding = "recorded by " + drawn.producer + " and not the bits of this reference";
    }
    add(report, Subject::recorded, verdict, {});
  }
}

}  // namespace

CaseReport check_drawn_case(const std::filesystem::path& file, Port& port, JudgeOptions options,
                            bool forward_only) {
  const auto began = std::chrono::steady_clock::now();
  const DrawnCase drawn = read_drawn_case(file);
  const Capabilities* has = port.capabilities();
  const bool forward = drawn.spec.backward && (forward_only || (has && !has->backward));
  const Call call = drawn_from(drawn, file, forward);
  CaseReport report;
  report.file = file;
  report.case_name = drawn.spec.name;
  report.component = call.component;
  const bool mlp = call.component == Component::mlp;
  report.dtype =
      std::string(name(mlp ? parse_mlp_config(call.config).dtype : parse_moe_config(call.config).dtype));
  report.experts = mlp ? 0 : parse_moe_config(call.config).n_routed_experts;
  report.flags = drawn.spec.flags;
  report.note = drawn.spec.note;
  report.forward_only = forward;
  report.repeat = fmt::format("moeref validate --port {} {}{}", shell_word(port.name()),
                              forward_only ? "--forward-only " : "", shell_word(file.string()));
  if (port.is_reference())
    judge_recorded(report, drawn);
  else
    judge_port(report, drawn, call, port, port.run(file, call), options);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return report;
}

}  // namespace moeref
