// moeref bench: how long the components of a layer take on a port, and how far that is from what is possible.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include "golden/catalogue/presets.hpp"
#include "moeref/error.hpp"
#include "tools/bench/bench_ports.hpp"
#include "tools/bench/bench_report.hpp"
#include "tools/bench/products.hpp"
#include "tools/commands/commands.hpp"
#include "tools/commands/user_layer.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/progress.hpp"
#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

struct BenchOptions {
  std::string port;
  std::vector<std::string> shapes, components;
  std::vector<std::int64_t> tokens;
  int repeat = 0;
  double timeout = 600.0;  ///< seconds
  fs::path config, json, picture;
};

struct NamedLayer {
  std::string name;
  bench::Layer layer;
};

std::string shape_names() {
  std::string names;
  for (const Preset* shape : measured_presets()) names += (names.empty() ? "" : ", ") + shape->measured->name;
  return names;
}

/// The preset's widths and counts. All else is the same for all of them, so that their times compare:
/// bfloat16, swiglu, a softmax gate with renormalised weights and an auxiliary loss, no shared experts.
NamedLayer layer_of(const Preset& preset, const BenchDefaults& defaults) {
  NamedLayer out{preset.measured->name, {}};
  if (defaults.narrower > 1) out.name += "/" + std::to_string(defaults.narrower);
  MoEConfig& c = out.layer.config;
  c.dim = preset.full.dim / defaults.narrower;
  c.moe_inter_dim = c.inter_dim = preset.full.moe_inter_dim / defaults.narrower;
  c.n_routed_experts = preset.full.n_routed_experts;
  c.n_activated_experts = preset.full.n_activated_experts;
  c.softmax_before_topk = c.norm_topk_prob = true;
  c.aux_loss_coeff = 0.001;
  out.layer.tokens = defaults.tokens > 0 ? defaults.tokens : preset.measured->tokens;
  return out;
}

NamedLayer layer_of(const fs::path& file, const BenchDefaults& defaults) {
  LayerRequest request;
  request.components = {Component::moe};
  request.default_tokens = defaults.user_tokens;
  const CaseSpec spec = user_layer(file, request).front();
  NamedLayer out{file.stem().string(), {}};
  out.layer.config = parse_moe_config(spec.config);
  out.layer.options = parse_call_options(spec.options);
  out.layer.tokens = element_count(spec.tokens);
  if (out.layer.tokens < 1) throw InputError(file.string() + ": tokens is 0: a benchmark wants 1 or more");
  if (out.layer.options.parallel.size() > 1)
    throw InputError(file.string() + ": the call has several ranks: a benchmark runs one");
  return out;
}

/// Shapes and the user's own layer, each with all numbers of tokens.
std::vector<NamedLayer> chosen(const BenchOptions& options, const BenchDefaults& defaults) {
  const auto known = [](const std::string& name) {
    return std::ranges::any_of(measured_presets(), [&](const auto* s) { return name == s->measured->name; });
  };
  for (const std::string& name : options.shapes)
    if (!known(name)) throw InputError("unknown shape '" + name + "': want one of " + shape_names());
  std::vector<NamedLayer> layers;
  const bool all = options.shapes.empty() && options.config.empty();
  for (const Preset* shape : measured_presets())
    if (all || std::ranges::find(options.shapes, shape->measured->name) != options.shapes.end())
      layers.push_back(layer_of(*shape, defaults));
  if (!options.config.empty()) layers.push_back(layer_of(options.config, defaults));
  if (options.tokens.empty()) return layers;
  std::vector<NamedLayer> out;
  for (const NamedLayer& one : layers)
    for (const std::int64_t tokens : options.tokens) {
      out.push_back(one);
      out.back().layer.tokens = tokens;
    }
  return out;
}

std::vector<Component> components_of(const BenchOptions& options) {
  std::vector<Component> out;
  for (const std::string& text : options.components) {
    const Component component = parse_component(text);
    if (std::ranges::find(kBenchComponents, component) == kBenchComponents.end())
      throw InputError("component '" + text + "' has no benchmark: want gate, experts, mlp or moe");
    out.push_back(component);
  }
  if (out.empty()) out.assign(kBenchComponents.begin(), kBenchComponents.end());
  return out;
}

void measure_all(const std::vector<std::pair<NamedLayer, Component>>& work, BenchPort& port,
                 BenchReport& report) {
  Progress progress("bench", work.size());
  for (const auto& item : work) {
    const NamedLayer& named = item.first;
    const Component component = item.second;
    progress.start(fmt::format("{}, {} tokens, {}", named.name, named.layer.tokens, name(component)));
    const auto failed = [&](const std::string& reason) {
      report.failures.push_back({named.name, named.layer.tokens, component, reason});
    };
    try {
      for (bench::Measurement& one : port.measure(named.layer, component, report.repeat))
        report.rows.push_back({named.name, named.layer, std::move(one), port.threads()});
    } catch (const PortFailure& ended) {
      failed(ended.what());
      report.crashed = true;
    } catch (const std::bad_alloc&) {
      failed("not enough memory");
    } catch (const std::exception& error) {
      failed(error.what());
    }
    progress.finish();
  }
}

int bench_command_run(const BenchOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  const auto port = open_bench_port(options.port, port_settings(options.timeout, 1, false).limit);
  const std::vector<NamedLayer> layers = chosen(options, port->defaults());
  std::vector<std::pair<NamedLayer, Component>> work;
  for (const NamedLayer& one : layers)
    for (const Component component : components_of(options))
      if (bench::has_part(component, one.layer)) work.emplace_back(one, component);
  if (work.empty()) throw InputError("none of these layers has one of these components");
  BenchReport report;
  report.moeref = MOEREF_VERSION;
  report.commit = bench_commit();
  report.port = options.port;
  report.repeat = options.repeat > 0 ? options.repeat : port->defaults().repeat;
  report.environment = port->facts();
  ReportFile json(options.json), picture(options.picture);

  measure_all(work, *port, report);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  fmt::print("{}", bench_table(report, shows_colours(stdout)));
  if (json.wanted()) json.write(bench_json(report));
  if (picture.wanted()) picture.write(bench_picture(report));
  return report.exit_code();
}

}  // namespace

Command bench_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand(
      "bench", "Time a port's components, against dense products and the device's limits");
  const auto o = std::make_shared<BenchOptions>();
  app->add_option("--port", o->port, "Whose components to time: cpu, cuda or PATH.so")
      ->required()
      ->type_name("PORT");
  app->add_option("--shape", o->shapes, "Only these layers: " + shape_names())->type_name("NAME");
  app->add_option("--config", o->config, "Your own layer: a JSON file as `moeref generate --config` takes it")
      ->type_name("FILE");
  add_components(*app, o->components, "Only these of gate, experts, mlp (the shared experts) and moe");
  app->add_option("--tokens", o->tokens, "Numbers of tokens, also as a list: 1024,4096,16384")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--repeat", o->repeat, "Rounds that the medians are over (10; where a CPU computes 3)")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app->add_option("--timeout", o->timeout, "Seconds that a port may take for one measurement (600)")
      ->type_name("SECONDS");
  app->add_option("--json", o->json, "Write the report to this file, for programs")->type_name("FILE");
  app->add_option("--picture", o->picture, "Draw time against tokens to this file, as SVG")
      ->type_name("FILE");
  return {app, [o] { return bench_command_run(*o); }};
}

}  // namespace moeref
