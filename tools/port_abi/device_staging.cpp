#include "port_abi/device_staging.hpp"

#include <dlpack/dlpack.h>

namespace moeref {
namespace {

/// The port works in the block itself.
class CpuStaging final : public DeviceStaging {
 public:
  std::byte* place(std::byte* host, std::size_t) override { return host; }
  std::optional<std::string> bring_back(std::byte*, std::size_t) override { return std::nullopt; }
  void* stream() const override { return nullptr; }
};

}  // namespace

std::unique_ptr<DeviceStaging> make_staging(std::int32_t device, std::string& why) {
  if (device == kDLCPU) return std::make_unique<CpuStaging>();
  why = "the port wants its tensors on a CUDA device, and this build of moeref has no CUDA";
  return nullptr;
}

}  // namespace moeref
