// Where a call's buffers lie while a port works on them. The whole block, patterns included, goes to the
// device and comes back, so that every check of the block is the same for all devices. This is the one place
// that a device is known in.
#pragma once

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

  /// The stream that the port works on, null on the CPU.
  virtual void* stream() const = 0;
};

/// By DLDeviceType: kDLCPU or kDLCUDA. Null, with the reason in `why`, for a device that this machine does
/// not have.
std::unique_ptr<DeviceStaging> make_staging(std::int32_t device, std::string& why);

}  // namespace moeref
