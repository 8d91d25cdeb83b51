// Runs the properties against an implementation.
//
//   moeref_property_tests --component gate --cases 200 --seed 7
//   moeref_property_tests --property token_permutation --repeat 'gate T=2 E=3 k=1 seed=7'
//   moeref_property_tests --list
//
// Exit codes: 0 all that ran passed and something ran; 1 a property failed, was vacuous or flaky, or a kind
// of input was never met; 2 bad usage.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>

#include "moeref/error.hpp"
#include "moeref/parallel_for.hpp"
#include "moeref/runner.hpp"
#include "ports.hpp"

namespace {

using namespace moeref;

struct Arguments {
  std::string port = "cpu", repeat, seed = "1";
  std::vector<std::string> properties, components;
  int cases = 100;
  bool list = false, verbose = false;
};

std::string joined(const auto& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : ", ") + std::string(word);
  return out;
}

std::string component_names(const Property& p) {
  std::vector<std::string_view> out;
  for (const Component c : p.components) out.push_back(name(c));
  return joined(out);
}

void list() {
  for (const Property& p : properties())
    fmt::print("{:4} {:32} {:11} {:24} {}\n     kills: {}\n", p.id, p.name, name(p.property_class),
               component_names(p), p.checks, joined(p.kills));
}

void print(const RunReport& r, bool verbose) {
  const double rate = r.seconds > 0.0 ? 60.0 * r.cases() / r.seconds : 0.0;
  fmt::print("{:13} {:4} {:32} {:5} passed {:4} discarded {:8.0f} a minute\n", name(r.status), r.property->id,
             r.property->name, r.passed, r.discarded, rate);
  if (verbose || r.status == RunStatus::vacuous || r.status == RunStatus::not_supported)
    for (const auto& [reason, count] : r.reasons) fmt::print("              {} x {}\n", count, reason);
  if (r.smallest)
    fmt::print("              {}\n              repeat: {}\n", to_string(r.finding), repeat_line(r));
}

int repeat(const Arguments& a, Implementation& implementation) {
  if (a.properties.size() != 1)
    throw InputError("--repeat needs the one --property that its line belongs to");
  const Property* property = find_property(a.properties.front());
  const Outcome outcome = repeat_case(*property, implementation, a.repeat);
  switch (outcome.kind) {
    case Outcome::Kind::passed:
      fmt::print("PASS\n");
      return 0;
    case Outcome::Kind::failed:
      fmt::print("FAIL {}\n", to_string(outcome.finding));
      return 1;
    case Outcome::Kind::discarded:
      fmt::print("DISCARDED {}\n", outcome.reason);
      return 1;
    case Outcome::Kind::not_supported:
      fmt::print("NOT_SUPPORTED {}\n", outcome.reason);
      return 1;
  }
  return 1;
}

std::vector<const Property*> chosen(const Arguments& a, const std::vector<Component>& components) {
  std::vector<const Property*> out;
  for (const Property& p : properties()) {
    const auto named = [&](const std::string& word) { return p.id == word || p.name == word; };
    const bool wanted = a.properties.empty() || std::ranges::any_of(a.properties, named);
    const bool concerned = components.empty() || std::ranges::any_of(p.components, [&](Component c) {
                             return std::ranges::find(components, c) != components.end();
                           });
    if (wanted && concerned) out.push_back(&p);
  }
  return out;
}

int run_all(const Arguments& a, const Port& port) {
  RunOptions options;
  options.cases = a.cases;
  options.seed = a.seed == "random" ? std::random_device{}() : std::stoull(a.seed);
  options.declared = port.declared;
  for (const std::string& component : a.components) options.components.push_back(parse_component(component));
  fmt::print("port {}, seed {}, {} cases a property\n", port.implementation->name(), options.seed,
             options.cases);

  std::vector<RunReport> reports;
  int ran = 0, bad = 0;
  for (const Property* property : chosen(a, options.components)) {
    const RunReport& report = reports.emplace_back(run_property(*property, *port.implementation, options));
    print(report, a.verbose);
    std::fflush(stdout);
    ran += report.passed > 0;
    bad += report.status != RunStatus::passed && report.status != RunStatus::not_supported;
  }
  // A run of a few properties or cases is not meant to meet every kind of input.
  const bool whole = a.properties.empty() && a.cases >= 50;
  const std::vector<std::string> unmet = whole ? unmet_buckets(reports) : std::vector<std::string>{};
  for (const std::string& bucket : unmet) fmt::print("UNMET         {}\n", bucket);
  fmt::print("{} properties ran, {} failed, {} kinds of input unmet\n", ran, bad, unmet.size());
  return ran > 0 && bad == 0 && unmet.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app{"Property tests of Mixture-of-Experts implementations"};
  app.add_option("--port", a.port, "cpu")->capture_default_str();
  app.add_option("--property", a.properties, "Only these, by id or name");
  app.add_option("--component", a.components, "Only properties of these");
  app.add_option("--cases", a.cases, "Cases of each property")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", a.seed, "A number, or 'random'")->capture_default_str();
  app.add_option("--repeat", a.repeat, "Run the one case of this descriptor, without RapidCheck");
  app.add_flag("--list", a.list, "The table of properties");
  app.add_flag("--verbose", a.verbose, "Why cases were discarded");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    if (a.list) {
      list();
      return 0;
    }
    for (const std::string& property : a.properties)
      if (!find_property(property)) throw InputError("there is no property '" + property + "': see --list");
    // Cases are small: threads would cost more than they compute.
    set_thread_count(1);
    const Port port = make_port(a.port);
    return a.repeat.empty() ? run_all(a, port) : repeat(a, *port.implementation);
  } catch (const InputError& error) {
    fmt::print(stderr, "moeref_property_tests: {}\n", error.what());
  } catch (const std::invalid_argument&) {
    fmt::print(stderr, "moeref_property_tests: --seed is '{}': want a number or 'random'\n", a.seed);
  }
  return 2;
}
