#include "tools/port_host/device_staging.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tools/port_host/cuda_driver.hpp"

namespace moeref {
namespace {

/// The port works in the block itself.
class CpuStaging final : public DeviceStaging {
 public:
  std::byte* place(std::byte* host, std::size_t) override { return host; }
  void bring_back(std::byte*, std::size_t) override {}
  DLDevice device() const override { return {kDLCPU, 0}; }
  void* stream() const override { return nullptr; }
};

/// The block lies in device memory while the port works. It is kept for the next call where it is large
/// enough.
class CudaStaging final : public DeviceStaging {
 public:
  CudaStaging(const CudaDriver& driver, int ordinal) : driver_(driver), ordinal_(ordinal) {
    driver_.use_device(ordinal);
    stream_ = driver_.create_stream();
  }

  std::byte* place(std::byte* host, std::size_t size) override {
    guarded([&] {
      driver_.make_current();
      if (size > size_) {
        if (size_ > 0) driver_.free(block_);
        size_ = 0;
        block_ = driver_.allocate(size);
        size_ = size;
      }
      driver_.copy_to_device(block_, host, size, stream_);
      driver_.wait_for(stream_);
    });
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver's addresses are integers
    return reinterpret_cast<std::byte*>(block_);
  }

  void bring_back(std::byte* host, std::size_t size) override {
    guarded([&] {
      driver_.make_current();
      driver_.wait_for(stream_);
      driver_.copy_from_device(host, block_, size, stream_);
      driver_.wait_for(stream_);
    });
  }

  DLDevice device() const override { return {kDLCUDA, ordinal_}; }
  void* stream() const override { return stream_; }

 private:
  /// After most errors of a kernel the device's context is of no more use: the process ends as if it had
  /// crashed, which is reported with this text, and the next call gets a fresh one.
  template <class Work>
  static void guarded(const Work& work) {
    try {
      work();
    } catch (const CudaDriverError& error) {
      std::fprintf(stderr, "on the device: %s\n", error.what());
      std::fflush(stderr);
      ::_exit(EXIT_FAILURE);
    }
  }

  CudaDriver driver_;
  int ordinal_;
  void* stream_ = nullptr;
  CudaDriver::Address block_ = 0;
  std::size_t size_ = 0;
};

}  // namespace

std::unique_ptr<DeviceStaging> make_staging(DLDeviceType type, const StagingRank& rank, std::string& why) {
  if (type == kDLCPU) return std::make_unique<CpuStaging>();
  try {
    const CudaDriver driver;
    const int devices = driver.device_count();
    if (devices > 0 && (rank.may_share || rank.world_size <= devices))
      return std::make_unique<CudaStaging>(driver, rank.rank % devices);
    why = fmt::format("its {} processes want a CUDA device each, and this machine has {}", rank.world_size,
                      devices);
    return nullptr;
  } catch (const CudaDriverError& error) {
    why = std::string("the port wants its tensors on a CUDA device: ") + error.what();
    return nullptr;
  }
}

}  // namespace moeref
