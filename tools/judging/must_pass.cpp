#include "tools/judging/must_pass.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>

#include "golden/catalogue/embedded_texts.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/call/conventions.hpp"

namespace moeref {

std::span<const EmbeddedText> must_pass_texts();  // golden/must_pass/*.txt (CMakeLists.txt)

namespace {

DType dtype_of(const CaseSpec& spec) {
  return spec.component == Component::mlp ? parse_mlp_config(spec.config).dtype
                                          : parse_moe_config(spec.config).dtype;
}

/// What a rule looks at.
struct Traits {
  bool layer;     ///< gate, mlp, experts or moe
  bool training;  ///< aux_loss or bias_update
  bool fp32, bf16;
  std::int64_t ranks, ep;
  bool decided;     ///< every honest port selects the same experts, by a gate of its own
  bool documented;  ///< no convention that the documented system does not have
};

Traits traits_of(const CaseSpec& spec) {
  const auto is = [&](std::initializer_list<Component> some) {
    return std::ranges::find(some, spec.component) != some.end();
  };
  const CallOptions options = parse_call_options(spec.options);
  const DType dtype = dtype_of(spec);
  Call call;
  call.component = spec.component;
  call.config = spec.config;
  return {is({Component::gate, Component::mlp, Component::experts, Component::moe}),
          is({Component::aux_loss, Component::bias_update}),
          dtype == DType::float32,
          dtype == DType::bfloat16,
          options.parallel.size(),
          options.parallel.ep_size,
          spec.margin >= 1.0 && !options.fake_balanced_gate,
          conventions_of(call).empty()};
}

struct Rule {
  std::string_view name, summary;
  bool gradients;
  bool (*holds)(const CaseSpec& spec, const Traits& t);
};

constexpr std::array kRules{
    Rule{
        "core",
        "gate, mlp, experts and moe in float32 on one rank, where every honest port selects the same experts",
        false,
        [](const CaseSpec&, const Traits& t) { return t.layer && t.fp32 && t.ranks == 1 && t.decided; }},
    Rule{"expert_parallelism", "experts and moe over several ranks, with gradients", true,
         [](const CaseSpec&, const Traits& t) { return t.ep > 1 && t.decided; }},
    Rule{"training", "core in float32 and bfloat16 with gradients, the auxiliary loss and the bias update",
         true,
         [](const CaseSpec& spec, const Traits& t) {
           return ((t.layer && spec.backward) || t.training) && (t.fp32 || t.bf16) && t.ranks == 1 &&
                  t.decided;
         }},
};

MustPassList parse_list(const std::string& title, const std::string& text) {
  MustPassList list{title, {}};
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    std::istringstream words(line.substr(0, line.find('#')));
    const std::vector<std::string> all{std::istream_iterator<std::string>(words), {}};
    if (all.empty()) continue;
    if (all.size() > 2 || all[0].find("__") == std::string::npos || (all.size() == 2 && all[1] != "grads"))
      throw InputError(
          fmt::format("{}: line {}: want a case's name like gate__sigmoid, and 'grads' or nothing behind it",
                      title, number));
    list.cases.push_back({all[0], all.size() == 2});
  }
  if (list.cases.empty()) throw InputError(title + ": names no case");
  return list;
}

/// Why the case does not fulfil the list, in words; empty where it does.
std::string shortcoming(const MustPass& want, const CaseReport& one) {
  if (one.verdict != Verdict::pass) {
    const std::string why = one.finding.empty() ? one.waiver : one.finding;
    return std::string(name(one.verdict)) + (why.empty() ? "" : " (" + why + ")");
  }
  // A port that is the reference has no tensors of its own: what the files record is judged.
  const bool judged =
      std::ranges::any_of(one.tensors, [](const TensorFinding& t) { return t.subject == Subject::port; });
  const Subject subject = judged ? Subject::port : Subject::recorded;
  const auto is_gradient = [&](const TensorFinding& t) {
    return t.subject == subject && t.verdict.tensor.starts_with("grads/");
  };
  if (want.gradients && std::ranges::none_of(one.tensors, is_gradient)) return "judged without its gradients";
  return "";
}

}  // namespace

std::vector<std::string_view> must_pass_names() {
  std::vector<std::string_view> names;
  for (const Rule& rule : kRules) names.push_back(rule.name);
  return names;
}

MustPassList read_must_pass(const std::string& name_or_file) {
  for (const EmbeddedText& own : must_pass_texts())
    if (own.file == name_or_file + ".txt") return parse_list(name_or_file, std::string(own.text));
  std::ifstream file(name_or_file, std::ios::binary);
  if (!file || std::filesystem::is_directory(name_or_file)) {
    std::string names;
    for (const std::string_view own : must_pass_names()) names += std::string(own) + ", ";
    throw InputError(name_or_file + ": is neither a list of ours nor a file that can be read: want " + names +
                     "or a file with a case's name on each line");
  }
  return parse_list(name_or_file, {std::istreambuf_iterator<char>(file), {}});
}

void apply_must_pass(const MustPassList& list, Report& report) {
  std::map<std::string, const CaseReport*> judged;
  for (const CaseReport& one : report.cases) judged[one.name()] = &one;
  for (const MustPass& want : list.cases) {
    const auto it = judged.find(want.case_name);
    const std::string trouble =
        it == judged.end() ? "not among the cases of this run" : shortcoming(want, *it->second);
    if (!trouble.empty())
      report.findings.push_back(fmt::format("must-pass {}: {}: {}", list.title, want.case_name, trouble));
  }
}

std::string must_pass_text(std::string_view name, const std::vector<CaseSpec>& recipes) {
  const auto rule = std::ranges::find(kRules, name, &Rule::name);
  if (rule == kRules.end()) throw InputError("there is no must-pass list '" + std::string(name) + "'");
  std::vector<std::string> lines;
  for (const CaseSpec& spec : recipes)
    if (const Traits traits = traits_of(spec); traits.documented && rule->holds(spec, traits))
      lines.push_back(full_name(spec) + (rule->gradients && spec.backward ? " grads" : ""));
  std::ranges::sort(lines);
  std::string text = fmt::format("# {}: {}.\n# Made by rule from golden/recipes (tools/must_pass.cpp).\n",
                                 rule->name, rule->summary);
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

}  // namespace moeref
