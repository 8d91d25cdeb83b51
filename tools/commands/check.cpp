// moeref check: the property suite against a port, with the smallest case of every failure.
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "moeref/gradients_judged.hpp"
#include "moeref/reference.hpp"
#include "tools/commands/commands.hpp"
#include "tools/judging/port_watch.hpp"
#include "tools/judging/suite_options.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/check_report.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

struct CheckOptions {
  std::string port, repeat, seed = "random";
  std::vector<std::string> properties, components;
  std::string scale = "small";
  std::optional<int> cases;  // as the scale says
  std::optional<double> timeout;
  std::int64_t processes = PortSettings{}.processes;
  bool share_devices = PortSettings{}.share_devices;
  fs::path save, json;
  bool verbose = false, forward_only = false;
};

/// A run with fewer cases is not meant to meet every kind of input.
constexpr int kWholeRun = 50;

std::uint64_t seed_of(const std::string& text) {
  if (text == "random") return std::random_device{}();
  std::uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc{} || end != text.data() + text.size())
    throw InputError("--seed is '" + text + "': want a number or 'random'");
  return seed;
}

int count_components(const Property& property, const std::vector<Component>& components) {
  return static_cast<int>(std::ranges::count_if(property.components, [&](Component c) {
    return components.empty() || std::ranges::find(components, c) != components.end();
  }));
}

std::vector<const Property*> chosen(const CheckOptions& options, const std::vector<Component>& components,
                                    Scale scale) {
  for (const std::string& word : options.properties) property_named(word);
  std::vector<const Property*> out;
  for (const Property& p : properties()) {
    const auto named = [&](const std::string& word) { return p.id == word || p.name == word; };
    if ((options.properties.empty() || std::ranges::any_of(options.properties, named)) &&
        count_components(p, components) > 0 && (scale == Scale::small || p.sizes != Sizes::usual))
      out.push_back(&p);
  }
  if (out.empty())
    throw InputError("none of these properties is one of these components and of the scale " +
                     std::string(name(scale)) + " (moeref list properties)");
  return out;
}

/// The run's last line. A component whose gradients nothing judged is no pass.
std::string gradients_text(const CheckOptions& options, bool has_backward,
                           const std::vector<Component>& unjudged) {
  if (options.forward_only) return "gradients were not asked for\n";
  if (!has_backward) return "gradients were not asked for: the port declares no backward pass\n";
  std::string names;
  for (const Component component : unjudged)
    names += (names.empty() ? "" : ", ") + std::string(name(component));
  return names.empty() ? "" : "gradients that no property judged: " + names + "\n";
}

/// The call that a descriptor stands for, with the reference's results, for `validate` and for the record.
fs::path save(const fs::path& folder, const RunReport& run, bool forward_only) {
  GoldenFile file;
  file.call = make_call(*run.smallest, !forward_only && facts(run.smallest->component).has_backward);
  file.case_name = run.property->name;
  file.producer = "moeref " MOEREF_VERSION;
  file.recipe =
      nlohmann::json{{"property", run.property->name}, {"descriptor", to_line(*run.smallest)}}.dump();
  file.allow_nonfinite = run.smallest->poison != NonFinite::none;
  Evaluation evaluation = evaluate(file.call);
  fs::path path = folder / fmt::format("{}__{}.h5", name(file.call.component), run.property->name);
  write_golden(path, file, evaluation);
  return path;
}

int repeat(const CheckOptions& options, Implementation& port) {
  if (options.properties.size() != 1)
    throw InputError("--repeat needs the one --property that its line belongs to");
  const Property& property = property_named(options.properties.front());
  PortWatch watched(port);
  const Outcome outcome = repeat_case(property, watched, options.repeat);
  const Verdict verdict = watched.take();
  if (outcome.kind != Outcome::Kind::failed) {
    const bool passed = outcome.kind == Outcome::Kind::passed;
    fmt::print("{} {}\n", name(outcome.kind), passed ? property.checks : outcome.reason);
    return passed ? kExitPassed : kExitFailed;
  }
  fmt::print("{} {}\n", verdict == Verdict::pass ? name(outcome.kind) : name(verdict),
             one_line(to_string(outcome.finding)));
  return verdict == Verdict::pass ? kExitFailed : kExitCrashed;
}

int check(const CheckOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const Scale scale = parse_scale(options.scale);
  const std::uint64_t seed = seed_of(options.seed);
  std::vector<Component> components;
  for (const std::string& component : options.components) components.push_back(parse_component(component));
  const std::vector<const Property*> wanted = chosen(options, components, scale);
  if (options.port.starts_with("results:"))
    throw InputError("--port " + options.port + ": properties call the port, which files cannot answer");
  std::unique_ptr<Port> opened =
      open_port(options.port, port_settings(options.timeout.value_or(defaults_of(scale).timeout),
                                            options.processes, options.share_devices));
  RunOptions run = run_options(*opened, scale);
  if (options.cases) run.cases = *options.cases;
  run.seed = seed;
  run.components = components;
  const bool has_backward = !opened->capabilities() || opened->capabilities()->backward;
  const std::unique_ptr<Implementation> whole = as_implementation(std::move(opened));
  ForwardOnly forward(*whole);
  Implementation* port = options.forward_only ? static_cast<Implementation*>(&forward) : whole.get();
  if (!options.repeat.empty()) return repeat(options, *port);

  ReportFile json(options.json);
  if (!options.save.empty()) fs::create_directories(options.save);
  CheckReport report{MOEREF_VERSION,
                     port->name(),
                     shell_word(options.port),
                     std::string(name(scale)),
                     run.seed,
                     run.cases,
                     {},
                     {},
                     0.0};
  const bool colours = shows_colours(stdout);
  const Float32Products products = run.declared.float32_products;
  fmt::print(
      "moeref {}, port {}{}, seed {}, {}{} cases per {}\n\n", report.moeref, report.port,
      products == Float32Products::float32 ? "" : fmt::format(" ({} products declared)", name(products)),
      report.seed, scale == Scale::small ? "" : fmt::format("scale {}, ", report.scale), report.cases,
      scale == Scale::small ? "property" : "component of a property");
  PortWatch watched(*port);
  GradientsJudged gradients(watched);
  std::vector<RunReport> runs;
  for (const Property* property : wanted) {
    RunOptions own = run;
    if (scale != Scale::small) own.cases *= count_components(*property, run.components);
    PropertyResult result{run_property(*property, gradients, own), watched.take(), ""};
    gradients.note(result.run);
    runs.push_back(result.run);
    if (result.run.smallest && !options.save.empty())
      result.saved = save(options.save, result.run, options.forward_only).string();
    fmt::print("{}", property_text(report, result, options.verbose, colours));
    std::fflush(stdout);
    report.properties.push_back(std::move(result));
  }
  // A port that declares less is given less.
  const bool partial = std::ranges::any_of(runs, [](const RunReport& r) { return r.not_supported > 0; });
  if (options.properties.empty() && scale == Scale::small && run.cases >= kWholeRun && !partial)
    report.unmet = unmet_buckets(runs);
  // One property that was asked for by name need not judge gradients.
  const bool judges = options.properties.empty() && !options.forward_only && has_backward;
  const std::vector<Component> unjudged = judges ? gradients.unjudged() : std::vector<Component>{};
  for (const Component component : unjudged)
    report.unmet.push_back(fmt::format("{}: no property judged its gradients", name(component)));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (json.wanted()) json.write(json_text(report));
  fmt::print("{}{}", summary_text(report, colours), gradients_text(options, has_backward, unjudged));
  return report.exit_code();
}

}  // namespace

Command check_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("check", "Run the property suite on a port, and shrink what fails");
  const auto options = std::make_shared<CheckOptions>();
  app->add_option("--port", options->port, "Whose answers to check (moeref list implementations)")
      ->required()
      ->type_name("PORT");
  add_components(*app, options->components, "Only properties of these components");
  app->add_option("--property", options->properties, "Only these, by id or name (moeref list properties)")
      ->type_name("NAME");
  app->add_option("--scale", options->scale,
                  "small; kernel: widths of published models, hundreds to thousands of tokens; full: their "
                  "layers, 8192 to 32768 tokens (for a GPU)")
      ->capture_default_str()
      ->type_name("SCALE");
  app->add_option("--cases", options->cases,
                  "Cases of each property [100; for each of its components 2 at the scale kernel, 1 at full]")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--seed", options->seed, "A number, or 'random'; it is always printed")
      ->capture_default_str()
      ->type_name("S");
  app->add_option("--repeat", options->repeat, "Run the one case of this line, as a failure prints it")
      ->type_name("LINE");
  app->add_option("--save-failures", options->save, "Write each smallest failing case there as a golden file")
      ->type_name("DIR");
  app->add_option("--timeout", options->timeout, "Seconds after which a call of the port hangs [10; 600]")
      ->type_name("SECONDS");
  app->add_option("--processes", options->processes,
                  "Calls with more ranks are made in one process, which plays them all")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_flag(
      "--share-devices", options->share_devices,
      "Processes of a call may work on one CUDA device, where there are fewer (with NCCL they cannot)");
  app->add_option("--json", options->json, "Write the report to this file, for programs")->type_name("FILE");
  app->add_flag("--forward-only", options->forward_only, "Ask for outputs alone, never for gradients");
  app->add_flag("--verbose", options->verbose, "Say why cases were discarded");
  return {app, [options] { return check(*options); }};
}

}  // namespace moeref
