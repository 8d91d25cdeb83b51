#include "python/extension/ports.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/gradients_judged.hpp"
#include "moeref/runner.hpp"
#include "python/extension/callable_port.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/judging/case_check.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/judging/port_watch.hpp"
#include "tools/ports/port.hpp"
#include "tools/report/check_report.hpp"
#include "tools/report/findings.hpp"

namespace nb = nanobind;

namespace moeref::python {
namespace {

/// A port that others own, for what takes ports only as its own.
class SharedPort final : public Port {
 public:
  explicit SharedPort(std::shared_ptr<Port> port) : port_(std::move(port)) {}

  std::string name() const override { return port_->name(); }
  const Capabilities* capabilities() const override { return port_->capabilities(); }
  PortOutcome run(const std::filesystem::path& file, const Call& call) override {
    return port_->run(file, call);
  }

 private:
  std::shared_ptr<Port> port_;
};

/// Threads of the reference while one property or case runs: small cases are computed sooner by one.
class Threads {
 public:
  explicit Threads(int count) : before_(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

nb::dict as_dict(const PropertyResult& result) {
  const RunReport& run = result.run;
  nb::dict out, reasons;
  for (const auto& [reason, count] : run.reasons) reasons[reason.c_str()] = count;
  out["status"] = std::string(result.status());
  out["failed"] = result.failed();
  out["passed"] = run.passed;
  out["discarded"] = run.discarded;
  out["not_supported"] = run.not_supported;
  out["reasons"] = reasons;
  out["finding"] = run.smallest ? to_string(run.finding) : std::string();
  out["case"] = run.smallest ? to_line(*run.smallest) : std::string();
  out["thresholds"] = run.thresholds;
  out["seconds"] = run.seconds;
  return out;
}

nb::dict as_dict(const CaseReport& report) {
  nb::dict out;
  const bool failed = report.verdict >= Verdict::fail;
  out["status"] = std::string(name(report.verdict));
  out["failed"] = failed;
  out["finding"] = failed ? headline(report) : report.finding;
  out["about"] = about(report);
  out["warnings"] = report.warnings;
  out["seconds"] = report.seconds;
  return out;
}

/// A port, opened once and asked for many properties and cases.
class OpenPort {
 public:
  explicit OpenPort(std::unique_ptr<Port> port)
      : port_(std::move(port)),
        implementation_(as_implementation(std::make_unique<SharedPort>(port_))),
        watched_(*implementation_),
        forward_only_(watched_) {}

  PropertyResult check(const std::string& property, const std::string& scale, std::uint64_t seed, int cases,
                       const std::vector<std::string>& components, bool forward) {
    RunOptions options;
    options.cases = cases;
    options.seed = seed;
    options.sizes = size_range(parse_scale(scale));
    options.declared = declared_by(*port_);
    if (options.sizes.scale != Scale::small) options.shrink_seconds = 120.0;
    for (const std::string& component : components) options.components.push_back(parse_component(component));
    const Threads threads(options.sizes.scale == Scale::small ? 1 : 0);
    PropertyResult result{run_property(known(property), asked(forward), options), Verdict::pass, ""};
    result.port = watched_.take();
    return result;
  }

  Outcome repeat(const std::string& property, const std::string& line) {
    const Outcome outcome = repeat_case(known(property), watched_, line);
    watched_.take();
    return outcome;
  }

  CaseReport validate(const std::string& file, bool forward) {
    CaseChecker checker{*port_, {}};
    checker.forward_only = forward;
    return checker.check(file).report;
  }

 private:
  static const Property& known(const std::string& name) {
    const Property* property = find_property(name);
    if (!property) throw InputError("there is no property '" + name + "' (moeref list properties)");
    return *property;
  }

  Implementation& asked(bool forward) {
    return forward ? static_cast<Implementation&>(forward_only_) : watched_;
  }

  std::shared_ptr<Port> port_;
  std::unique_ptr<Implementation> implementation_;
  PortWatch watched_;
  ForwardOnly forward_only_;
};

/// The rows of the table: (name, components, what it checks, whether it is for the scales beyond small).
nb::list property_rows() {
  nb::list out;
  for (const Property& property : properties()) {
    std::vector<std::string> components;
    for (const Component component : property.components) components.emplace_back(name(component));
    out.append(nb::make_tuple(std::string(property.name), components, std::string(property.checks),
                              property.sizes != Sizes::usual));
  }
  return out;
}

std::string kind_name(Outcome::Kind kind) {
  switch (kind) {
    case Outcome::Kind::passed:
      return "PASS";
    case Outcome::Kind::discarded:
      return "DISCARDED";
    case Outcome::Kind::not_supported:
      return "NOT_SUPPORTED";
    case Outcome::Kind::failed:
      break;
  }
  return "FAIL";
}

/// What `body` finds, while other threads of Python run.
template <class Body>
auto apart(Body body) {
  const nb::gil_scoped_release others_run;
  return body();
}

}  // namespace

void bind_ports(nb::module_& module) {
  module.def("properties", property_rows);
  nb::class_<OpenPort>(module, "Port")
      .def_static("of_function",
                  [](nb::object function, const std::string& hello) {
                    return new OpenPort(make_callable_port(std::move(function), hello));
                  })
      .def_static("of_command",
                  [](const std::string& command, double timeout) {
                    return new OpenPort(make_exec_port(command, port_settings(timeout, 1, false)));
                  })
      .def("check",
           [](OpenPort& port, const std::string& property, const std::string& scale, std::uint64_t seed,
              int cases, const std::vector<std::string>& components, bool forward_only) {
             return as_dict(
                 apart([&] { return port.check(property, scale, seed, cases, components, forward_only); }));
           })
      .def("repeat",
           [](OpenPort& port, const std::string& property, const std::string& line) {
             const Outcome outcome = apart([&] { return port.repeat(property, line); });
             return nb::make_tuple(kind_name(outcome.kind), outcome.kind == Outcome::Kind::failed
                                                                ? to_string(outcome.finding)
                                                                : outcome.reason);
           })
      .def("validate", [](OpenPort& port, const std::string& file, bool forward_only) {
        return as_dict(apart([&] { return port.validate(file, forward_only); }));
      });
}

}  // namespace moeref::python
