// A CUDA driver whose device is a piece of this process's memory, for tests on machines without one: device
// addresses differ from host addresses, streams and errors are what the tests ask for.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

bool asked_for(std::string_view fault) {
  const char* wanted = std::getenv("MOEREF_TEST_CUDA_FAULT");
  return wanted && fault == wanted;
}

/// As many devices as MOEREF_TEST_CUDA_DEVICES says, one without it.
int device_count() {
  const char* wanted = std::getenv("MOEREF_TEST_CUDA_DEVICES");
  return wanted ? std::atoi(wanted) : 1;
}

int contexts[8];
char stream_of_the_suite[256];  // zeros: for the emulated runtime (cuda_impl/emulation) a stream at rest

bool is_ours(void* stream) { return stream == &stream_of_the_suite; }

}  // namespace

extern "C" {

int cuInit(unsigned) { return asked_for("no_device") ? 100 : 0; }
int cuDeviceGetCount(int* count) { return *count = device_count(), 0; }
int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= device_count()) return 101;
  return *device = ordinal, 0;
}
int cuDevicePrimaryCtxRetain(void** out, int device) { return *out = &contexts[device], 0; }
int cuCtxSetCurrent(void* current) {
  return current >= contexts && current < contexts + device_count() ? 0 : 201;
}

int cuMemAlloc_v2(std::uint64_t* address, std::size_t size) {
  if (asked_for("no_memory")) return 2;
  void* const memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
  std::memset(memory, 0xee, size);
  return *address = reinterpret_cast<std::uint64_t>(memory), 0;
}
int cuMemFree_v2(std::uint64_t address) { return std::free(reinterpret_cast<void*>(address)), 0; }

int cuStreamCreate(void** out, unsigned) { return *out = &stream_of_the_suite, 0; }
int cuStreamSynchronize(void* stream) {
  static int calls = 0;
  // The first call in a process follows the copy to the device, the second the port's work.
  if (asked_for("illegal_access") && ++calls == 2) return 700;
  return is_ours(stream) ? 0 : 400;
}
int cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t size, void* stream) {
  return std::memcpy(reinterpret_cast<void*>(to), from, size), is_ours(stream) ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void* to, std::uint64_t from, std::size_t size, void* stream) {
  return std::memcpy(to, reinterpret_cast<const void*>(from), size), is_ours(stream) ? 0 : 400;
}

int cuGetErrorString(int status, const char** text) {
  *text = status == 2     ? "out of memory"
          : status == 100 ? "no CUDA-capable device is detected"
          : status == 700 ? "an illegal memory access was encountered"
          : status == 101 ? "invalid device ordinal"
                          : "invalid handle";
  return 0;
}

}  // extern "C"
