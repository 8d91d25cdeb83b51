// Links the installed CUDA library and asks it for what needs no device: that it refuses what is out of
// range.
#include <cstdio>

#include "moeref/cuda/error.hpp"
#include "moeref/cuda/metrics.hpp"

int main() {
  try {
    moeref::cuda::load_balance_metrics(-1, 4, nullptr, {}, nullptr);
  } catch (const moeref::cuda::ArgumentError& error) {
    std::printf("refused: %s\n", error.what());
    return 0;
  }
  std::fprintf(stderr, "-1 layers were not refused\n");
  return 1;
}
