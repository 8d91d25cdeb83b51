// Reads an installed golden file, evaluates its call with the installed reference, and compares.
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "moeref/golden_file.hpp"
#include "moeref/reference.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: outside FOLDER_OF_GOLDEN_FILES\n");
    return 2;
  }
  try {
    const moeref::GoldenFile golden =
        moeref::read_golden(std::filesystem::path(argv[1]) / "mlp__swiglu_fp64.h5");
    const moeref::Evaluation evaluation = moeref::evaluate(golden.call);
    const moeref::Tensor& recorded = golden.results.at("outputs/y");
    const moeref::BoundedTensor& computed = evaluation.results.at("outputs/y");
    for (std::int64_t i = 0; i < recorded.size(); ++i) {
      const auto n = static_cast<std::size_t>(i);
      if (!(std::abs(recorded[i] - computed.value[n]) <= computed.bound[n])) {
        std::fprintf(stderr, "outputs/y[%lld] is %g, recorded as %g\n", static_cast<long long>(i),
                     computed.value[n], recorded[i]);
        return 1;
      }
    }
    std::printf("%lld elements agree\n", static_cast<long long>(recorded.size()));
    return recorded.size() > 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
