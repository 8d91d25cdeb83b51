#include "python/extension/callable_port.hpp"

#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <utility>

#include "python/extension/arrays.hpp"

namespace nb = nanobind;

namespace moeref::python {
namespace {

class CallablePort final : public Port {
 public:
  CallablePort(nb::object function, Capabilities capabilities)
      : function_(std::move(function)), capabilities_(std::move(capabilities)) {}
  ~CallablePort() override {
    const nb::gil_scoped_acquire python;
    function_.reset();
  }

  std::string name() const override { return capabilities_.name; }
  const Capabilities* capabilities() const override { return &capabilities_; }

  PortOutcome run(const std::filesystem::path&, const Call& call) override {
    if (const auto lack = capabilities_.lack(call)) return {{}, Verdict::not_supported, *lack};
    const nb::gil_scoped_acquire python;
    const auto answer = nb::cast<nb::tuple>(function_(call));  // a copy, which the port may keep
    const auto status = nb::cast<std::string>(answer[0]);
    const auto reason = nb::cast<std::string>(answer[1]);
    if (status == "not_supported") return {{}, Verdict::not_supported, reason};
    if (status != "ok") return {{}, Verdict::fail, reason};
    // Copied, since the port may write into the same arrays when it is called again.
    return {copied_tensors(nb::cast<nb::dict>(answer[2])), Verdict::pass, ""};
  }

 private:
  nb::object function_;
  Capabilities capabilities_;
};

}  // namespace

std::unique_ptr<Port> make_callable_port(nb::object function, const std::string& hello) {
  return std::make_unique<CallablePort>(std::move(function),
                                        parse_capabilities(nlohmann::json::parse(hello)));
}

}  // namespace moeref::python
