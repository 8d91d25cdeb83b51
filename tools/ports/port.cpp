#include "ports/port.hpp"

#include <array>

#include "moeref/error.hpp"
#include "moeref/reference.hpp"

namespace moeref {
namespace {

class ImplementationPort final : public Port {
 public:
  ImplementationPort(std::unique_ptr<Implementation> implementation, bool is_reference)
      : implementation_(std::move(implementation)), is_reference_(is_reference) {}

  std::string name() const override { return implementation_->name(); }
  bool is_reference() const override { return is_reference_; }

  PortOutcome run(const std::filesystem::path&, const Call& call) override {
    try {
      if (const auto reason = implementation_->unsupported(call))
        return {{}, Verdict::not_supported, *reason};
      PortOutcome outcome{implementation_->run(call), Verdict::pass, ""};
      if (outcome.results.empty()) return {{}, Verdict::fail, "the port gave no results"};
      return outcome;
    } catch (const InputError& refused) {
      // The file was checked: the reference computes this call.
      return {{}, Verdict::fail, std::string("the port refuses a valid call: ") + refused.what()};
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

constexpr std::array kKinds{
    PortKind{"cpu", "the reference; judges what the golden files record", "cpu",
             [](std::string_view) { return make_port(std::make_unique<CpuReference>(), true); }},
    PortKind{"results:DIR", "files that your implementation wrote: DIR/<name of the golden file>",
             "results:", [](std::string_view folder) { return make_results_port(folder); }},
};

}  // namespace

std::unique_ptr<Port> make_port(std::unique_ptr<Implementation> implementation, bool is_reference) {
  return std::make_unique<ImplementationPort>(std::move(implementation), is_reference);
}

std::span<const PortKind> port_kinds() { return kKinds; }

std::unique_ptr<Port> open_port(std::string_view text) {
  std::string kinds;
  for (const PortKind& kind : kKinds) {
    if (kind.prefix.ends_with(':') ? text.starts_with(kind.prefix) : text == kind.prefix)
      return kind.open(text.substr(kind.prefix.size()));
    kinds += (kinds.empty() ? "" : ", ") + std::string(kind.syntax);
  }
  throw InputError("unknown port '" + std::string(text) + "': want one of " + kinds);
}

}  // namespace moeref
