// Where a call's buffers lie while a port works on them. The whole block, patterns included, goes to the
// device and comes back, so that every check of the block is the same for all devices. This is the one place
// that a device is known in.
#pragma once

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace moeref {

class DeviceStaging {
 public:
  virtual ~DeviceStaging() = default;

  /// The block's address for the port; `host` holds its contents.
  virtual std::byte* place(std::byte* host, std::size_t size) = 0;

  /// Waits for the port's work and brings the contents back. Ends the process, with a last word on stderr,
  /// where the device can do no more.
  virtual void bring_back(std::byte* host, std::size_t size) = 0;

  /// Where the block lies for the port.
  virtual DLDevice device() const = 0;

  /// The stream that the port works on, null on the CPU.
  virtual void* stream() const = 0;
};

/// Which process of a call this is, and whether ranks may work on one device where there are fewer.
struct StagingRank {
  int rank = 0, world_size = 1;
  bool may_share = false;
};

/// By DLDeviceType: kDLCPU or kDLCUDA, there the device of the rank's number. Null, with the reason in `why`
/// and the same on all ranks, for devices that this machine does not have.
std::unique_ptr<DeviceStaging> make_staging(DLDeviceType type, const StagingRank& rank, std::string& why);

}  // namespace moeref
