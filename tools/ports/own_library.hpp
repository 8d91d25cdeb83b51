// Where the ports that come with moeref lie: libraries that the command loads when they are asked for by
// name, so that it needs nothing of what they link.
#pragma once

#include <filesystem>
#include <string_view>

namespace moeref {

/// The library of the port `cuda`. Its folder: beside the command `host`, as in a build; where an
/// installation keeps it; or, before both, the file that the environment's MOEREF_CUDA_PORT names. Throws
/// InputError that says where it was looked for.
std::filesystem::path cuda_port_library(const std::filesystem::path& host);

}  // namespace moeref
