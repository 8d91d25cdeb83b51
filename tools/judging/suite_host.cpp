#include "tools/judging/suite_host.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "moeref/error.hpp"
#include "moeref/gradients_judged.hpp"
#include "moeref/runner.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/judging/case_check.hpp"
#include "tools/judging/port_watch.hpp"
#include "tools/judging/suite_options.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/check_report.hpp"
#include "tools/report/findings.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

using nlohmann::json;

class SuiteHost {
 public:
  SuiteHost(const std::string& port, const std::string& timeout)
      : port_(open_port(port, port_settings(std::strtod(timeout.c_str(), nullptr), 1, false))),
        implementation_(as_implementation(port_)),
        watched_(*implementation_),
        forward_only_(watched_) {}

  json answer(const json& request) {
    if (request.contains("check")) return check(request);
    if (request.contains("repeat")) return repeat(request);
    if (request.contains("validate")) return validate(request);
    throw InputError("a request without 'check', 'repeat' or 'validate'");
  }

 private:
  json check(const json& request) {
    RunOptions options = run_options(*port_, parse_scale(request.at("scale").get<std::string>()));
    if (const json& cases = request.at("cases"); !cases.is_null()) options.cases = cases;
    options.seed = request.at("seed");
    options.components = {parse_component(request.at("component").get<std::string>())};
    Implementation& asked =
        request.at("forward_only") ? static_cast<Implementation&>(forward_only_) : watched_;
    PropertyResult result{
        run_property(property_named(request.at("check").get<std::string>()), asked, options), Verdict::pass,
        ""};
    result.port = watched_.take();
    const RunReport& run = result.run;
    return {{"status", result.status()},
            {"failed", result.failed()},
            {"passed", run.passed},
            {"reasons", run.reasons},
            {"finding", run.smallest ? to_string(run.finding) : ""},
            {"case", run.smallest ? to_line(*run.smallest) : ""},
            {"thresholds", run.thresholds}};
  }

  json repeat(const json& request) {
    const Outcome outcome = repeat_case(property_named(request.at("repeat").get<std::string>()), watched_,
                                        request.at("line").get<std::string>());
    watched_.take();
    const bool failed = outcome.kind == Outcome::Kind::failed;
    return {{"status", name(outcome.kind)},
            {"failed", failed},
            {"finding", failed ? to_string(outcome.finding) : outcome.reason}};
  }

  json validate(const json& request) {
    set_thread_count(0);
    CaseChecker checker{*port_, {}};
    checker.forward_only = request.at("forward_only");
    const CaseReport report = checker.check(request.at("validate").get<std::string>()).report;
    const bool failed = report.verdict >= Verdict::fail;
    return {{"status", name(report.verdict)},
            {"failed", failed},
            {"finding", failed ? headline(report) : report.finding},
            {"about", about(report)},
            {"warnings", report.warnings}};
  }

  std::shared_ptr<Port> port_;
  std::unique_ptr<Implementation> implementation_;
  PortWatch watched_;
  ForwardOnly forward_only_;
};

void say(const json& answer) {
  fmt::print("{}\n", answer.dump(-1, ' ', false, json::error_handler_t::replace));
  std::fflush(stdout);
}

}  // namespace

int print_suite() {
  json out = json::array();
  for (const Property& property : properties()) {
    json components = json::array();
    for (const Component component : property.components) components.push_back(name(component));
    out.push_back({{"name", property.name},
                   {"components", components},
                   {"checks", property.checks},
                   {"any_scale", property.sizes != Sizes::usual}});
  }
  say(out);
  return kExitPassed;
}

int run_suite_host(const std::string& port, const std::string& timeout) {
  std::unique_ptr<SuiteHost> host;
  try {
    host = std::make_unique<SuiteHost>(port, timeout);
  } catch (const InputError& error) {
    say({{"error", error.what()}});
    return kExitBadInput;
  }
  say({{"opened", port}});
  for (std::string line; std::getline(std::cin, line);) {
    try {
      say(host->answer(json::parse(line)));
    } catch (const InputError& error) {
      say({{"error", error.what()}});
    } catch (const json::exception& error) {
      say({{"error", std::string("a bad request: ") + error.what()}});
    }
  }
  return kExitPassed;
}

}  // namespace moeref
