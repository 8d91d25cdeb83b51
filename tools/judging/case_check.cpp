#include "tools/judging/case_check.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "golden/catalogue/drawn_case.hpp"
#include "golden/catalogue/recipes.hpp"
#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/verdict/probable_error.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/judging/diagnosis.hpp"
#include "tools/judging/drawn_check.hpp"
#include "tools/ports/isolated_port.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

/// Values of a generator that only the reference and ports that declare it have.
bool draws_otherwise(const Capabilities* has, const Call& call) {
  return has && !has->counter_generator && call.component == Component::init &&
         parse_call_options(call.options).seed;
}

std::string dtype_of(const Call& call) {
  const DType dtype = call.component == Component::mlp ? parse_mlp_config(call.config).dtype
                                                       : parse_moe_config(call.config).dtype;
  return std::string(name(dtype));
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

void add_finding(CaseReport& report, Verdict verdict, const std::string& finding) {
  report.verdict = worse(report.verdict, verdict);
  report.finding += (report.finding.empty() ? "" : "; ") + finding;
}

/// A misspelt name is a missing result, and one that no check reads.
void warn_of_unknown_results(CaseReport& report, const Call& call, const NamedTensors& results) {
  const Signature known = signature(call);
  for (const auto& [name, tensor] : results)
    if (!name.starts_with("stages/") &&
        std::ranges::none_of(known.outputs,
                             [&name = name](const TensorSpec& spec) { return spec.name == name; }))
      report.warnings.push_back(fmt::format("port {} is no result of this call and was not looked at", name));
}

void take_routing(CaseReport& report, const CaseVerdict& verdict) {
  report.tokens = verdict.tokens;
  report.uncertified_tokens = verdict.uncertified_tokens;
  report.own_certified_tokens = verdict.own_certified_tokens;
  report.shows_scores = verdict.shows_scores;
  report.tied_tokens = verdict.tied_tokens;
  report.ambiguous_tokens = verdict.ambiguous_tokens;
}

/// The file's own results against the reference: is this golden file right?
void judge_recorded(CaseReport& report, const GoldenFile& golden, ReferenceResults& reference,
                    const JudgeOptions& options) {
  const CaseVerdict verdict = judge(reference, golden.results, options);
  add_tensors(report, Subject::recorded, verdict, golden.results);
  take_routing(report, verdict);
  report.verdict = verdict.verdict;
  if (verdict.verdict == Verdict::fail || !made_by_moeref(golden.producer)) return;
  if (const auto difference = reference.differing_bits(golden.results)) {
    report.verdict = Verdict::fail;
    report.finding =
        fmt::format("recorded by {} and not the bits of this reference: {}", golden.producer, *difference);
  }
}

/// What the first divergence looks like, where a tensor is to blame.
void show_evidence(CaseReport& report, const GoldenFile& golden, ReferenceResults& recorded,
                   ReferenceResults& judged, const NamedTensors& results) {
  const TensorFinding* first = report.first_failure();
  if (!first) return;
  const bool of_port = first->subject == Subject::port;
  report.evidence = collect_evidence(of_port ? judged : recorded, of_port ? results : golden.results,
                                     first->verdict.tensor, first->verdict.index);
}

}  // namespace

void keep_forward(GoldenFile& golden) {
  const auto is_backward = [](const auto& entry) {
    return entry.first.starts_with("cotangents/") || entry.first.starts_with("grads/");
  };
  golden.call.backward = false;
  std::erase_if(golden.call.tensors, is_backward);
  std::erase_if(golden.results, is_backward);
  std::erase_if(golden.bounds, is_backward);
}

/// The bits of the first call in a process, for a case whose values are wrong.
void CaseChecker::ask_a_fresh_process(CaseReport& report, const Call& call, const NamedTensors& results) {
  const Capabilities* has = port.capabilities();
  const std::lock_guard lock(one_at_a_time);
  if (!has || !has->deterministic || fresh_processes_left-- <= 0) return;
  const auto fresh = port.run_fresh(call);
  if (!fresh) return;
  if (const auto difference = differing_results(results, *fresh))
    add_finding(report, Verdict::fail,
                "depends on earlier calls: " + *difference + " after other calls and in a fresh process");
}

void CaseChecker::judge_values(Checked& checked, const GoldenFile& golden, ReferenceResults& reference,
                               const PortOutcome& outcome) {
  CaseReport& report = checked.report;
  JudgeOptions rule = options;
  if (const Capabilities* has = port.capabilities()) rule.lowest_id_first = has->lowest_id_first;
  const CaseVerdict verdict = judge(reference, outcome.results, rule);
  add_tensors(report, Subject::port, verdict, outcome.results);
  take_routing(report, verdict);
  warn_of_unknown_results(report, golden.call, outcome.results);
  report.verdict = worse(report.verdict, verdict.verdict);
  if (verdict.verdict == Verdict::fail) {
    if (diagnoses_left > 0 && diagnoses_left-- > 0)
      report.follows = convention_followed(reference.call(), outcome.results, rule);
    if (outcome.verdict == Verdict::pass && report.follows.empty())
      ask_a_fresh_process(report, golden.call, outcome.results);
    return;
  }
  if (!outcome.repeated.empty()) {
    const CaseVerdict again = judge(reference, outcome.repeated, rule);
    if (const TensorVerdict* wrong = again.first_failure())
      add_finding(report, Verdict::fail,
                  fmt::format("the same call made a second time gives a wrong {}: r = {:.3g}", wrong->tensor,
                              wrong->ratio));
  }
}

void CaseChecker::judge_port(Checked& checked, const GoldenFile& golden, ReferenceResults& reference,
                             const PortOutcome& outcome) {
  CaseReport& report = checked.report;
  // A wrong golden file stays a failure; whether its recorded routing was ambiguous is not about the port.
  const bool recorded_is_wrong = report.verdict == Verdict::fail;
  take_routing(report, {});
  report.verdict = worse(recorded_is_wrong ? Verdict::fail : Verdict::pass, outcome.verdict);
  report.warnings.insert(report.warnings.end(), outcome.warnings.begin(), outcome.warnings.end());
  if (outcome.verdict != Verdict::pass) add_finding(report, outcome.verdict, outcome.finding);
  if (outcome.results.empty()) return;
  judge_values(checked, golden, reference, outcome);
  const Capabilities* has = port.capabilities();
  if (recorded_is_wrong || (has && !has->rounds_its_sums())) return;
  checked.identity = count_identity(reference, outcome.results);
  IdentityCount all;
  for (const auto& [name, count] : checked.identity) all += count;
  if (!all.proof()) return;
  const std::string finding = identity_finding("every result", all);
  if (has)
    add_finding(report, Verdict::fail, finding);
  else
    report.warnings.push_back(finding);
  checked.identity.clear();  // once is enough
}

CaseChecker::Checked CaseChecker::check(const std::filesystem::path& file) {
  const auto began = std::chrono::steady_clock::now();
  std::unique_lock lock(one_at_a_time);
  if (is_drawn_case(file)) return {check_drawn_case(file, port, options, forward_only), {}, 0};
  GoldenFile golden = read_golden(file, BoundValues::only_checked);
  Checked checked;
  CaseReport& report = checked.report;
  const Capabilities* has = port.capabilities();
  if (golden.call.backward && (forward_only || (has && !has->backward))) {
    keep_forward(golden);
    report.forward_only = true;
  }
  report.file = file;
  report.case_name = golden.case_name;
  report.component = golden.call.component;
  report.dtype = dtype_of(golden.call);
  report.experts =
      golden.call.component == Component::mlp ? 0 : parse_moe_config(golden.call.config).n_routed_experts;
  report.flags = golden.flags;
  report.note = note_of_recipe(golden.recipe);
  report.repeat = fmt::format("moeref validate --port {} {}{}", shell_word(port.name()),
                              forward_only ? "--forward-only " : "", shell_word(file.string()));
  PortOutcome outcome;
  if (draws_otherwise(has, golden.call)) {
    outcome.verdict = Verdict::not_supported;
    outcome.finding =
        "its initial values come from a generator of its own, so none is expected ('init_generator')";
  } else if (!port.is_reference()) {
    outcome = port.run(file, golden.call);
  }
  lock.unlock();

  ReferenceResults reference(golden.call);
  if (golden.results.empty() && port.is_reference()) {
    report.verdict = Verdict::not_supported;
    report.finding = "the file holds a call alone, without results to judge";
    return checked;
  }
  if (!golden.results.empty()) judge_recorded(report, golden, reference, options);
  // A port whose products differ from those of the file's call has other bounds.
  std::optional<Call> own_call;
  std::optional<ReferenceResults> own_reference;
  const Float32Products products = declared_by(port).float32_products;
  if (products != Float32Products::float32)
    own_reference.emplace(own_call.emplace(as_judged(golden.call, products)));
  ReferenceResults& judged = own_reference ? *own_reference : reference;
  if (!port.is_reference()) judge_port(checked, golden, judged, outcome);
  if (report.verdict == Verdict::fail && evidence_left > 0 && evidence_left-- > 0)
    show_evidence(report, golden, reference, judged, outcome.results);
  checked.evaluations = reference.evaluations() + (own_reference ? own_reference->evaluations() : 0);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return checked;
}

}  // namespace moeref
