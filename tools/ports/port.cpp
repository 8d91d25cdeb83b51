#include "tools/ports/port.hpp"

#include <fmt/core.h>

#include <array>
#include <cmath>

#include "moeref/error.hpp"
#include "moeref/reference.hpp"
#include "tools/ports/own_library.hpp"

namespace moeref {
namespace {

class ImplementationPort final : public Port {
 public:
  ImplementationPort(std::unique_ptr<Implementation> implementation, bool is_reference)
      : implementation_(std::move(implementation)), is_reference_(is_reference) {}

  std::string name() const override { return implementation_->name(); }
  bool is_reference() const override { return is_reference_; }
  std::optional<std::string> unsupported(const Call& call) const override {
    return implementation_->unsupported(call);
  }

  PortOutcome run(const std::filesystem::path&, const Call& call) override {
    try {
      if (const auto reason = implementation_->unsupported(call))
        return PortOutcome{{}, Verdict::not_supported, *reason};
      PortOutcome outcome{implementation_->run(call), Verdict::pass, ""};
      if (outcome.results.empty()) return {{}, Verdict::fail, "the port gave no results"};
      return outcome;
    } catch (const InputError& refused) {
      // The file was checked: the reference computes this call.
      PortOutcome outcome{{}, Verdict::fail, std::string("the port refuses a valid call: ") + refused.what()};
      outcome.refused = true;
      return outcome;
    } catch (const std::exception& error) {
      return {{}, Verdict::crashed, std::string("the port threw: ") + error.what()};
    } catch (...) {
      return {{}, Verdict::crashed, "the port threw something that is no std::exception"};
    }
  }

 private:
  std::unique_ptr<Implementation> implementation_;
  bool is_reference_;
};

class PortImplementation final : public Implementation {
 public:
  explicit PortImplementation(std::shared_ptr<Port> port) : port_(std::move(port)) {}

  std::string name() const override { return port_->name(); }
  std::optional<std::string> unsupported(const Call& call) const override { return port_->unsupported(call); }
  NamedTensors run(const Call& call) override {
    PortOutcome outcome = port_->run({}, call);
    if (outcome.refused) throw InputError(outcome.finding);
    if (outcome.verdict != Verdict::pass) throw PortFailure(outcome.verdict, outcome.finding);
    return std::move(outcome.results);
  }

 private:
  std::shared_ptr<Port> port_;
};

constexpr std::array kKinds{
    PortKind{"cpu", "the reference; judges what the golden files record", "cpu",
             [](std::string_view, const PortSettings&) {
               return make_port(std::make_unique<CpuReference>(), true);
             }},
    PortKind{"cuda", "our CUDA implementation, from libmoeref_cuda_port.so", "cuda",
             [](std::string_view, const PortSettings& settings) {
               return make_library_port(cuda_port_library(settings.host), settings, "cuda");
             }},
    PortKind{"results:DIR", "files that your implementation wrote: DIR/<name of the golden file>", "results:",
             [](std::string_view folder, const PortSettings&) { return make_results_port(folder); }},
    PortKind{"exec:COMMAND", "a program that reads requests and writes results files", "exec:",
             [](std::string_view command, const PortSettings& settings) {
               return make_exec_port(std::string(command), settings);
             }},
    PortKind{"PATH.so", "a shared library with the port interface, moeref/port.h", "",
             [](std::string_view path, const PortSettings& settings) {
               return make_library_port(path, settings, path);
             }},
};

bool matches(const PortKind& kind, std::string_view text) {
  if (kind.prefix.empty()) return text.ends_with(".so") || text.find('/') != std::string_view::npos;
  return kind.prefix.ends_with(':') ? text.starts_with(kind.prefix) : text == kind.prefix;
}

}  // namespace

PortSettings port_settings(double timeout_seconds, std::int64_t processes, bool share_devices) {
  constexpr double kLongest = 1e6;
  if (!(timeout_seconds > 0.0 && timeout_seconds <= kLongest))
    throw InputError(fmt::format("--timeout is {}: want more than 0 seconds, and no more than {}",
                                 timeout_seconds, kLongest));
  PortSettings settings;
  settings.limit = std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil(timeout_seconds * 1000.0)));
  settings.processes = processes;
  settings.share_devices = share_devices;
  return settings;
}

std::unique_ptr<Port> make_port(std::unique_ptr<Implementation> implementation, bool is_reference) {
  return std::make_unique<ImplementationPort>(std::move(implementation), is_reference);
}

std::span<const PortKind> port_kinds() { return kKinds; }

std::unique_ptr<Implementation> as_implementation(std::shared_ptr<Port> port) {
  return std::make_unique<PortImplementation>(std::move(port));
}

std::unique_ptr<Port> open_port(std::string_view text, const PortSettings& settings) {
  std::string kinds;
  for (const PortKind& kind : kKinds) {
    if (matches(kind, text)) return kind.open(text.substr(kind.prefix.size()), settings);
    kinds += (kinds.empty() ? "" : ", ") + std::string(kind.syntax);
  }
  throw InputError("unknown port '" + std::string(text) + "': want one of " + kinds);
}

}  // namespace moeref
