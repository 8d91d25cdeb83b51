#include "tools/report/environment.hpp"

#include <sys/utsname.h>

#include <fstream>
#include <string_view>
#include <thread>

namespace moeref {
namespace {

/// What follows `key` on the first line of the file that begins with it, without the separators around it.
std::string value_in(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t from = line.find_first_not_of(" \t:=\"", key.size());
    if (from == std::string::npos) return "";
    return line.substr(from, line.find_last_not_of(" \t\"") + 1 - from);
  }
  return "";
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return "unknown";
#endif
}

std::string processor() {
  std::string model = value_in("/proc/cpuinfo", "model name");
  if (model.empty()) model = "unknown";
  return model + ", " + std::to_string(std::thread::hardware_concurrency()) + " threads";
}

std::string operating_system() {
  std::string distribution = value_in("/etc/os-release", "PRETTY_NAME");
  utsname kernel{};
  if (uname(&kernel) != 0) return distribution;
  return (distribution.empty() ? "" : distribution + ", ") + kernel.sysname + " " + kernel.release + " " +
         kernel.machine;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> environment() {
  return {{"compiler", compiler()}, {"processor", processor()}, {"system", operating_system()}};
}

}  // namespace moeref
