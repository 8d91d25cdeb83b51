// moeref probe: what a port is, measured, beside what it declares.
#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "moeref/error.hpp"
#include "tools/commands/commands.hpp"
#include "tools/judging/port_probe.hpp"
#include "tools/report/report_file.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

struct ProbeCommandOptions {
  std::string port;
  std::vector<std::string> components;
  int runs = 5;
  std::int64_t tokens = 1025, terms = 64;
  double timeout = 60.0;
  bool busy = false;
  fs::path json;
};

/// A second process of the port that computes while it is told to.
class BusyPort {
 public:
  explicit BusyPort(std::unique_ptr<Port> port) : port_(std::move(port)) {
    Descriptor d;
    d.component = Component::moe;
    d.T = 256;
    d.E = 8;
    d.k = 2;
    d.D = d.I = 64;
    d.logits = Logits::rough;
    d.values = Values::rough;
    repair(d);
    call_ = make_call(d);
    thread_ = std::thread([this] {
      while (!over_) {
        if (working_)
          port_->run({}, call_);
        else
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  ~BusyPort() {
    over_ = true;
    thread_.join();
  }
  BusyPort(const BusyPort&) = delete;
  BusyPort& operator=(const BusyPort&) = delete;

  void work(bool on) { working_ = on; }

 private:
  std::unique_ptr<Port> port_;
  Call call_;
  std::atomic<bool> over_ = false, working_ = false;
  std::thread thread_;
};

std::string facts_text(const std::vector<ProbeFact>& facts, bool colours) {
  constexpr std::size_t kLongest = 160;
  std::string out;
  for (const ProbeFact& fact : facts) {
    const Colour colour = fact.standing == Standing::refuted  ? Colour::red
                          : fact.standing == Standing::proven ? Colour::green
                                                              : Colour::faint;
    std::string found = fact.standing == Standing::refuted ? fact.found : fact.found.substr(0, kLongest);
    if (found.size() < fact.found.size()) found += "... (--json has all of it)";
    out +=
        fmt::format("{} {:8} {:36} {}\n", coloured(fmt::format("{:9}", name(fact.standing)), colour, colours),
                    fact.component, fact.subject, one_line(found));
    if (!fact.line.empty()) out += fmt::format("{:19}case: {}\n", "", fact.line);
  }
  return out;
}

nlohmann::ordered_json facts_json(const std::vector<ProbeFact>& facts) {
  auto out = nlohmann::ordered_json::array();
  for (const ProbeFact& fact : facts) {
    nlohmann::ordered_json one{{"component", fact.component},
                               {"subject", fact.subject},
                               {"found", fact.found},
                               {"standing", name(fact.standing)}};
    if (!fact.line.empty()) one["case"] = fact.line;
    if (!fact.tree.empty()) one["tree"] = fact.tree;
    out.push_back(std::move(one));
  }
  return out;
}

int probe(const ProbeCommandOptions& options) {
  if (options.port.starts_with("results:"))
    throw InputError("--port " + options.port + ": it is measured by calls, which files cannot answer");
  const PortSettings settings = port_settings(options.timeout, 1, false);
  const std::unique_ptr<Port> port = open_port(options.port, settings);
  std::unique_ptr<BusyPort> busy;
  ProbeOptions how;
  how.runs = options.runs;
  how.most_tokens = options.tokens;
  how.terms = options.terms;
  for (const std::string& component : options.components)
    how.components.push_back(parse_component(component));
  if (options.busy) {
    // Programs exchange HDF5 files, which one thread at a time may use.
    if (port->is_reference() || options.port.starts_with("exec:"))
      throw InputError("--busy needs a port that is a library");
    busy = std::make_unique<BusyPort>(open_port(options.port, settings));
    how.keep_busy = [&](bool on) { busy->work(on); };
  }
  ReportFile json(options.json);
  const bool colours = shows_colours(stdout);
  fmt::print("moeref {}, what port {} is\n\n", MOEREF_VERSION, one_line(port->name()));
  std::vector<ProbeFact> facts;
  for (const auto part : {probe_repetition, probe_batches, probe_ties, probe_sums}) {
    const std::vector<ProbeFact> found = part(*port, how);
    fmt::print("{}", facts_text(found, colours));
    std::fflush(stdout);
    facts.insert(facts.end(), found.begin(), found.end());
  }
  const auto count = [&](Standing standing) {
    return std::ranges::count(facts, standing, &ProbeFact::standing);
  };
  const bool any =
      std::ranges::any_of(facts, [](const ProbeFact& f) { return f.standing != Standing::unknown; });
  const int code = count(Standing::refuted) > 0 || !any ? kExitFailed : kExitPassed;
  if (json.wanted()) {
    const nlohmann::ordered_json report{{"format", "moeref-probe"}, {"format_version", 1},
                                        {"moeref", MOEREF_VERSION}, {"port", port->name()},
                                        {"exit_code", code},        {"facts", facts_json(facts)}};
    json.write(report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
  fmt::print("\nprobe: {} declarations proven, {} refuted; {} facts measured, {} unknown\n",
             count(Standing::proven), count(Standing::refuted), count(Standing::measured),
             count(Standing::unknown));
  return code;
}

}  // namespace

Command probe_command(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("probe", "Measure what a port is: determinism, batches, ties, the order of sums");
  const auto options = std::make_shared<ProbeCommandOptions>();
  app->add_option("--port", options->port, "What to measure (moeref list implementations)")
      ->required()
      ->type_name("PORT");
  add_components(*app, options->components, "Only these components");
  app->add_option("--runs", options->runs, "How often a call is made to compare its bits")
      ->capture_default_str()
      ->check(CLI::Range(2, 1000))
      ->type_name("N");
  app->add_option("--tokens", options->tokens, "The largest batch")
      ->capture_default_str()
      ->check(CLI::Range(9, 4096))
      ->type_name("T");
  app->add_option("--terms", options->terms, "Terms of a sum whose order is recovered")
      ->capture_default_str()
      ->check(CLI::Range(3, 256))
      ->type_name("N");
  app->add_option("--timeout", options->timeout, "Seconds after which a call of the port hangs")
      ->capture_default_str()
      ->type_name("SECONDS");
  app->add_flag("--busy", options->busy, "Half of the repeated calls beside a second process of the port");
  app->add_option("--json", options->json, "Write the facts to this file, for programs")->type_name("FILE");
  return {app, [options] { return probe(*options); }};
}

}  // namespace moeref
