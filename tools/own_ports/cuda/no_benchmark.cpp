// The emulated device has no times.
#include "tools/own_ports/cuda/cuda_benchmark.hpp"

namespace moeref::cuda {

decltype(moeref_port::bench) benchmark() { return nullptr; }

}  // namespace moeref::cuda
