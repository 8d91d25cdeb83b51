// Runs properties of the installed suite on two implementations of this project's own: the installed
// reference, which must pass, and one whose routing weights are a little too large, which must be caught and
// repeated from its line.
#include <cstdio>
#include <exception>
#include <optional>
#include <string>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"

namespace {

class Mine final : public moeref::Implementation {
 public:
  explicit Mine(double factor) : factor_(factor) {}
  std::string name() const override { return "mine"; }
  std::optional<std::string> unsupported(const moeref::Call&) const override { return std::nullopt; }
  moeref::NamedTensors run(const moeref::Call& call) override {
    moeref::NamedTensors results = reference_.run(call);
    const auto weights = results.find("outputs/weights");
    if (weights == results.end() || factor_ == 1.0) return results;
    for (std::int64_t i = 0; i < weights->second.size(); ++i)
      weights->second.set(i, weights->second[i] * factor_);
    return results;
  }

 private:
  double factor_;
  moeref::CpuReference reference_;
};

moeref::RunReport run(const char* property, double factor) {
  Mine mine(factor);
  moeref::RunOptions options;
  options.cases = 20;
  options.seed = 3;
  return moeref::run_property(*moeref::find_property(property), mine, options);
}

}  // namespace

int main() {
  try {
    const moeref::RunReport right = run("weight_sums", 1.0), wrong = run("weight_sums", 1.5);
    std::printf("right: %d cases passed; wrong: %s\n", right.passed, moeref::repeat_line(wrong).c_str());
    const bool as_expected =
        right.status == moeref::RunStatus::passed && wrong.status == moeref::RunStatus::failed;
    return as_expected && wrong.smallest ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
