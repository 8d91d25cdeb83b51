// moeref agree A B: two ports on the same calls, drawn or from golden files.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "moeref/descriptor.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "tools/commands/commands.hpp"
#include "tools/judging/agreement.hpp"
#include "tools/judging/case_check.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

struct AgreeOptions {
  std::string a, b;
  std::vector<fs::path> paths;
  std::vector<std::string> components;
  int cases = 100;
  std::uint64_t seed = 1;
  double timeout = 60.0;
  bool forward_only = false;
  fs::path json;
};

/// What is drawn unless components are named: those in which two implementations can differ by rounding.
constexpr std::array kDrawn{Component::gate, Component::mlp, Component::experts, Component::moe};
constexpr std::size_t kUnexplainedShown = 10;

/// Every second draw is a layer of some size on rough data, where near ties are; the others are as the
/// property suite draws them.
Descriptor draw_layer(Component component, std::uint64_t seed, std::int64_t number) {
  const CounterGenerator generator(seed, "agree");
  const std::uint64_t bits = generator.bits(static_cast<std::uint64_t>(number));
  Descriptor d = draw_descriptor(component, bits);
  d.noise = 0.0;  // a balanced gate's noise is seeded by sums of x
  d.poison = NonFinite::none;
  if (number % 2 == 1) {
    d.T = 64;
    d.batch = 1;
    d.E = component == Component::mlp ? d.E : 64;
    d.k = component == Component::mlp ? d.k : 6;
    d.groups = d.limited = 1;
    d.D = 64;
    d.I = 32;
    d.latent = 0;
    d.ranks = 1;
    d.replay = false;
    d.fake_gate = false;
    d.correction = Correction::none;
    d.mask = Mask::absent;
    d.logits = Logits::rough;
    d.values = Values::rough;
  }
  repair(d);
  return d;
}

struct Contestant {
  std::unique_ptr<Port> port;
  bool backward = true;

  explicit Contestant(std::unique_ptr<Port> opened) : port(std::move(opened)) {
    if (const Capabilities* has = port->capabilities()) backward = has->backward;
  }
  PortOutcome ask(const fs::path& file, const Call& call) const {
    if (const auto lack = port->unsupported(call)) return {{}, Verdict::not_supported, *lack};
    return port->run(file, call);
  }
};

/// Both sides of one call.
void meet(const fs::path& file, const Call& call, const std::string& line, const Contestant& a,
          const Contestant& b, Agreement& total) {
  PortOutcome of_a = a.ask(file, call);
  if (of_a.verdict == Verdict::not_supported) {
    ++total.declined;
    return;
  }
  PortOutcome of_b = b.ask(file, call);
  if (of_b.verdict == Verdict::not_supported) {
    ++total.declined;
    return;
  }
  const bool fine_a = of_a.verdict == Verdict::pass, fine_b = of_b.verdict == Verdict::pass;
  if (fine_a && fine_b) {
    const auto side = [](PortOutcome& outcome, const Port& port) {
      const Declarations declared = declared_by(port);
      return AgreementSide{std::move(outcome.results), declared.lowest_id_first, declared.float32_products};
    };
    compare(call, line, side(of_a, *a.port), side(of_b, *b.port), total);
    return;
  }
  ++total.calls;
  total.unexplained.push_back(
      {line, fmt::format("{}: {}", fine_a ? "B" : "A", fine_a ? of_b.finding : of_a.finding),
       fine_a   ? Blame::b
       : fine_b ? Blame::a
                : Blame::both});
}

void meet_on_files(const AgreeOptions& options, const std::vector<fs::path>& files, const Contestant& a,
                   const Contestant& b, Agreement& total) {
  for (const fs::path& file : files) {
    GoldenFile golden = read_golden(file, BoundValues::only_checked);
    const auto wanted = [&](const std::string& word) { return word == name(golden.call.component); };
    if (!options.components.empty() && std::ranges::none_of(options.components, wanted)) continue;
    if (options.forward_only || !a.backward || !b.backward) keep_forward(golden);
    meet(file, golden.call, file.string(), a, b, total);
  }
}

void meet_on_draws(const AgreeOptions& options, const Contestant& a, const Contestant& b, Agreement& total) {
  std::vector<Component> components;
  for (const std::string& word : options.components) components.push_back(parse_component(word));
  if (components.empty()) components.assign(kDrawn.begin(), kDrawn.end());
  // What one of them declines is drawn again, ten times as often at most.
  for (std::int64_t i = 0; i < 10 * std::int64_t{options.cases} && total.calls < options.cases; ++i) {
    const Component component = components[static_cast<std::size_t>(i / 2) % components.size()];
    const Descriptor d = draw_layer(component, options.seed, i);
    const bool backward = !options.forward_only && a.backward && b.backward && facts(component).has_backward;
    meet({}, make_call(d, backward), to_line(d), a, b, total);
  }
}

std::string ratio_table(const Agreement& total, bool colours) {
  std::vector<Row> rows{{{"tensor", Colour::bold},
                         {"elements", Colour::bold, true},
                         {"other bits", Colour::bold, true},
                         {"median", Colour::bold, true},
                         {"p99", Colour::bold, true},
                         {"worst", Colour::bold, true},
                         {"where |a - b| / (both bounds) is worst", Colour::bold}}};
  const auto ratio = [](double r) {
    return Cell{fmt::format("{:.3g}", r), r > 1.0 ? Colour::red : Colour::plain, true};
  };
  for (const auto& [name, d] : total.tensors)
    rows.push_back(
        {{name},
         {std::to_string(d.elements), Colour::plain, true},
         {std::to_string(d.differing), Colour::plain, true},
         ratio(d.quantile(0.5)),
         ratio(d.quantile(0.99)),
         ratio(d.worst),
         {d.differing == 0 ? "."
                           : fmt::format("{} is {:.9g} and {:.9g}", d.worst_place, d.worst_a, d.worst_b)}});
  return columns(rows, colours);
}

nlohmann::ordered_json agreement_json(const AgreeOptions& options, const Agreement& total, int code) {
  const auto number = [](double v) {
    return std::isfinite(v) ? nlohmann::ordered_json(v) : nlohmann::ordered_json("inf");
  };
  nlohmann::ordered_json out{{"format", "moeref-agree"},
                             {"format_version", 1},
                             {"moeref", MOEREF_VERSION},
                             {"a", options.a},
                             {"b", options.b},
                             {"seed", options.seed},
                             {"exit_code", code},
                             {"calls", total.calls},
                             {"declined", total.declined},
                             {"tokens", total.tokens},
                             {"alike", total.alike},
                             {"explained", total.explained},
                             {"unexplained_tokens", total.unexplained_tokens},
                             {"summary", summary_line(total)}};
  auto& tensors = out["tensors"] = nlohmann::ordered_json::object();
  for (const auto& [name, d] : total.tensors)
    tensors[name] = {{"elements", d.elements},
                     {"differing", d.differing},
                     {"beyond", d.beyond},
                     {"median", number(d.quantile(0.5))},
                     {"p99", number(d.quantile(0.99))},
                     {"worst", number(d.worst)},
                     {"place", d.worst_place},
                     {"a", number(d.worst_a)},
                     {"b", number(d.worst_b)},
                     {"call", d.worst_line}};
  auto& unexplained = out["unexplained"] = nlohmann::ordered_json::array();
  for (const Unexplained& one : total.unexplained)
    unexplained.push_back({{"call", one.line}, {"text", one.text}, {"wrong", name(one.blame)}});
  return out;
}

int agree(const AgreeOptions& options) {
  const bool files = !options.paths.empty();
  for (const std::string& port : {options.a, options.b})
    if (port.starts_with("results:") && !files)
      throw InputError(port + ": draws are made now, which files cannot answer: name the golden files");
  const PortSettings settings = port_settings(options.timeout, PortSettings{}.processes, false);
  const Contestant a(open_port(options.a, settings)), b(open_port(options.b, settings));
  ReportFile json(options.json);
  const std::vector<fs::path> paths = files ? list_golden_files(options.paths) : std::vector<fs::path>{};
  for (const Contestant* one : {&a, &b})
    if (files) one->port->prepare(paths);
  fmt::print("moeref {}, A = {}, B = {}, {}\n\n", MOEREF_VERSION, one_line(options.a), one_line(options.b),
             files ? fmt::format("{} golden files", paths.size())
                   : fmt::format("{} draws, seed {}", options.cases, options.seed));
  Agreement total;
  if (files)
    meet_on_files(options, paths, a, b, total);
  else
    meet_on_draws(options, a, b, total);
  const bool colours = shows_colours(stdout);
  fmt::print("{}\n", ratio_table(total, colours));
  for (std::size_t i = 0; i < std::min(kUnexplainedShown, total.unexplained.size()); ++i)
    fmt::print("{} {}\n            {}\n", coloured("unexplained", Colour::red, colours),
               one_line(total.unexplained[i].text), one_line(total.unexplained[i].line));
  if (total.unexplained.size() > kUnexplainedShown)
    fmt::print("{} more; --json lists them all\n", total.unexplained.size() - kUnexplainedShown);
  if (total.calls == 0) fmt::print("no call was made of both, which shows nothing\n");
  fmt::print("{} tokens and {} calls compared, {} calls declined by one of them\n{}\n", total.tokens,
             total.calls, total.declined, summary_line(total));
  const int code = total.agrees() ? kExitPassed : kExitFailed;
  if (json.wanted())
    json.write(
        agreement_json(options, total, code).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
        "\n");
  return code;
}

}  // namespace

Command agree_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand(
      "agree", "Compare two ports on the same calls: does rounding explain how they differ");
  const auto options = std::make_shared<AgreeOptions>();
  app->add_option("A", options->a, "A port (moeref list implementations)")->required()->type_name("");
  app->add_option("B", options->b, "Another")->required()->type_name("");
  app->add_option("FILE_OR_DIR", options->paths, "Golden files whose calls are made, in place of draws")
      ->type_name("");
  add_components(*app, options->components, "Only these components")->allow_extra_args(false);
  app->add_option("--cases", options->cases, "Draws")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--seed", options->seed, "Of the draws")->capture_default_str()->type_name("S");
  app->add_option("--timeout", options->timeout, "Seconds that a port may take for one call")
      ->capture_default_str()
      ->type_name("SECONDS");
  app->add_flag("--forward-only", options->forward_only, "Without gradients");
  app->add_option("--json", options->json, "Write the report to this file, for programs")->type_name("FILE");
  return {app, [options] { return agree(*options); }};
}

}  // namespace moeref
