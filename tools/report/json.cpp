#include "tools/report/json.hpp"

#include <cmath>

namespace moeref {
namespace {

using Json = nlohmann::ordered_json;

Json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

Json verdict_counts(const Summary& sum) {
  Json counts = Json::object();
  for (const auto& [verdict, count] : sum.verdicts) counts[std::string(name(verdict))] = count;
  return counts;
}

Json summary(const Summary& sum) {
  Json out{{"cases", sum.cases}, {"verdicts", verdict_counts(sum)}};
  out["worst_ratio"] = sum.worst ? number(sum.worst->verdict.ratio) : Json();
  out["worst_case"] = sum.worst ? Json(sum.worst_case->name()) : Json();
  out["worst_tensor"] = sum.worst ? Json(sum.worst->verdict.tensor) : Json();
  out["tokens"] = sum.tokens;
  out["uncertified_tokens"] = sum.uncertified_tokens;
  out["own_certified_tokens"] = sum.own_certified_tokens;
  out["tied_tokens"] = sum.tied_tokens;
  out["ambiguous_tokens"] = sum.ambiguous_tokens;
  return out;
}

Json tensor(const TensorFinding& finding) {
  const TensorVerdict& v = finding.verdict;
  Json out{{"subject", name(finding.subject)}, {"tensor", v.tensor}, {"verdict", name(v.verdict)}};
  out["ratio"] = number(v.ratio);
  out["probable_ratio"] = number(v.probable_ratio);
  out["elements"] = v.elements;
  out["shape"] = finding.shape;
  if (v.index >= 0) {
    out["index"] = v.index;
    out["place"] = finding.place();
    out["value"] = number(v.value);
    out["reference"] = number(v.reference);
    out["bound"] = number(v.bound);
  }
  if (!v.finding.empty()) out["finding"] = v.finding;
  return out;
}

Json one_case(const CaseReport& report) {
  Json out{{"case", report.case_name},
           {"component", name(report.component)},
           {"file", report.file.string()},
           {"dtype", report.dtype},
           {"verdict", name(report.verdict)}};
  if (!report.finding.empty()) out["finding"] = report.finding;
  const TensorFinding* worst = report.worst();
  out["worst_ratio"] = worst ? number(worst->verdict.ratio) : Json();
  out["tokens"] = report.tokens;
  out["uncertified_tokens"] = report.uncertified_tokens;
  out["own_certified_tokens"] = report.own_certified_tokens;
  out["shows_scores"] = report.shows_scores;
  out["tied_tokens"] = report.tied_tokens;
  out["ambiguous_tokens"] = report.ambiguous_tokens;
  out["flags"] = report.flags;
  out["warnings"] = report.warnings;
  out["forward_only"] = report.forward_only;
  out["seconds"] = report.seconds;
  out["repeat"] = report.repeat;
  if (!report.waiver.empty()) out["waiver"] = report.waiver;
  if (!report.follows.empty()) out["follows"] = report.follows;
  out["tensors"] = Json::array();
  for (const TensorFinding& finding : report.tensors) out["tensors"].push_back(tensor(finding));
  return out;
}

}  // namespace

Json json_report(const Report& report) {
  Json out{{"format", "moeref-report"},
           {"format_version", 1},
           {"moeref", report.moeref},
           {"port", report.port},
           {"compared", report.compared},
           {"exit_code", report.exit_code()},
           {"seconds", report.seconds},
           {"finding", report.run_finding()},
           {"hidden_stages", report.hidden_stages()},
           {"total", summary(report.total())}};
  out["components"] = Json::object();
  for (const auto& [component, sum] : report.by_component())
    out["components"][std::string(name(component))] = summary(sum);
  out["cases"] = Json::array();
  for (const CaseReport& one : report.cases) out["cases"].push_back(one_case(one));
  return out;
}

std::string json_text(const Report& report) {
  return json_report(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace moeref
