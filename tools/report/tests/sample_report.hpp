// A report with every kind of finding, for the tests of its formats.
#pragma once

#include <cmath>

#include "tools/report/report.hpp"

namespace moeref::testing {

inline TensorFinding tensor(Subject subject, std::string name, Verdict verdict, double ratio,
                            std::int64_t index, Shape shape) {
  TensorFinding out{subject, {}, std::move(shape)};
  out.verdict.tensor = std::move(name);
  out.verdict.verdict = verdict;
  out.verdict.ratio = ratio;
  out.verdict.elements = element_count(out.shape);
  out.verdict.index = index;
  return out;
}

inline CaseReport passing_case(std::string name = "plain", Component component = Component::gate) {
  CaseReport report;
  report.case_name = std::move(name);
  report.component = component;
  report.file = "golden/" + report.name() + ".h5";
  report.dtype = "bfloat16";
  report.flags = {"A1"};
  report.tokens = 37;
  report.seconds = 0.25;
  report.repeat = "moeref validate --port results:out golden/" + report.name() + ".h5";
  report.tensors = {tensor(Subject::port, "outputs/weights", Verdict::pass, 0.5, 3, {37, 2})};
  return report;
}

/// Two failing tensors, the second by a NaN; its names hold what XML and JSON must escape.
inline CaseReport failing_case() {
  CaseReport report = passing_case("<&>\"'\x01\xff");
  report.verdict = Verdict::fail;
  report.tensors = {tensor(Subject::port, "outputs/weights", Verdict::fail, 42.5, 13, {37, 2}),
                    tensor(Subject::port, "grads/x", Verdict::fail, INFINITY, 33, {37, 32})};
  TensorVerdict& weights = report.tensors[0].verdict;
  weights.value = 0.25;
  weights.reference = 0.5;
  weights.bound = 1e-3;
  weights.finding = "outside the bound";
  TensorVerdict& grads = report.tensors[1].verdict;
  grads.value = NAN;
  grads.reference = 1.0;
  grads.bound = 1e-7;
  grads.finding = "a < b & \"c\"";
  return report;
}

inline CaseReport unjudged_case(Verdict verdict, std::string finding) {
  CaseReport report = passing_case(std::string(name(verdict)), Component::moe);
  report.verdict = verdict;
  report.finding = std::move(finding);
  report.tensors.clear();
  report.tokens = 0;
  return report;
}

inline Report sample_report(std::vector<CaseReport> cases) {
  Report report;
  report.moeref = "1.2.3";
  report.port = "results:out";
  report.compared = "this with that";
  report.cases = std::move(cases);
  report.seconds = 1.5;
  return report;
}

}  // namespace moeref::testing
