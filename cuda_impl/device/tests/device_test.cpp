// That a device without kernels is told in one line that says what to do.
#include "moeref/cuda/device.hpp"

#include <gtest/gtest.h>

#include "cuda_impl/emulation/runtime.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::test {
namespace {

TEST(Device, WithoutKernelsIsToldWhatToBuild) {
  emulated::lose_kernels(true);
  const auto missing = moeref::cuda::device_missing();
  std::string thrown;
  try {
    check(cudaErrorNoKernelImageForDevice, "gate");
  } catch (const CudaError& e) {
    thrown = e.what();
  }
  emulated::lose_kernels(false);
  EXPECT_EQ(missing.value_or(""),
            "the CUDA device has compute capability 8.0, and this library has no kernels for the device: it "
            "was built "
            "for the emulated device; build it where the device is, or with -DCMAKE_CUDA_ARCHITECTURES=80");
  EXPECT_EQ(
      thrown,
      "gate: no kernel image is available for execution on the device; this library has no kernels for the "
      "device: it was built for the emulated device; build it where the device is, or with "
      "-DCMAKE_CUDA_ARCHITECTURES=native");
  EXPECT_FALSE(moeref::cuda::device_missing());
}

}  // namespace
}  // namespace moeref::cuda::test
