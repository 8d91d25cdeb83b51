#include "tools/ports/own_library.hpp"

#include <fmt/core.h>

#include <cstdlib>
#include <system_error>

#include "moeref/error.hpp"

namespace moeref {

namespace fs = std::filesystem;

namespace {

constexpr const char* kLibrary = "libmoeref_cuda_port.so";
constexpr const char* kVariable = "MOEREF_CUDA_PORT";

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

}  // namespace

fs::path cuda_port_library(const fs::path& host) {
  if (const char* named = std::getenv(kVariable); named && *named) {
    if (is_file(named)) return named;
    throw InputError(fmt::format("port cuda: {} names {}, which is no file", kVariable, named));
  }
  const fs::path folder = fs::canonical(host).parent_path();
  for (const fs::path& beside : {folder, (folder / MOEREF_INSTALLED_PORTS).lexically_normal()})
    if (is_file(beside / kLibrary)) return beside / kLibrary;
  throw InputError(
      fmt::format("port cuda: {} is not beside the command in {}: build with -DMOEREF_CUDA=ON, or name the "
                  "file in {}",
                  kLibrary, folder.string(), kVariable));
}

}  // namespace moeref
