// Whether this library's kernels run on a device.
#pragma once

#include <optional>
#include <string>

namespace moeref::cuda {

/// Why they do not run on the calling thread's current device, in one line: there is none, it is older than
/// compute capability 8.0, it has no memory pools, or the library was built for other architectures. Nothing
/// where they run.
std::optional<std::string> device_missing();

}  // namespace moeref::cuda
