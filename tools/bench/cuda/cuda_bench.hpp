// Times the components of a layer on the current CUDA device.
#pragma once

#include <vector>

#include "tools/bench/measurement.hpp"

namespace moeref::cuda::bench {

/// The device, its driver and the toolkit, by the names that the JSON report uses. Throws CudaError saying
/// what is missing where there is no device to measure on.
moeref::bench::Facts device_facts();

/// Forward, and forward + backward, each a median of `repeat` rounds in which the dense equivalent, forward
/// and both run one after another. Inputs rotate past the L2. Routing is random for the experts alone, and
/// the gate's own in a layer. Floors are those of an H200 (cuda_impl/README.md), for bfloat16.
///
/// Throws ArgumentError for a layer that the components do not serve, CudaError where memory does not suffice
/// or a call fails, and DeviceLost where the device then answers nothing any more.
std::vector<moeref::bench::Measurement> measure(const moeref::bench::Layer& layer, Component component,
                                                int repeat);

}  // namespace moeref::cuda::bench
