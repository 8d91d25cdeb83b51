#include "tools/port_host/hosted_bench.hpp"

#include <exception>
#include <string>

#include "tools/port_host/loaded_port.hpp"

namespace moeref {

using nlohmann::json;

json hosted_bench(const moeref_port& port, const json& request) try {
  const auto bench = bench_of(port);
  if (!bench) return {{"status", "not_supported"}, {"reason", "the port has no bench()"}};
  std::string text(std::size_t{1} << 16, '\0');
  const std::int32_t status = bench(request.at("ask").get<std::string>().c_str(), text.data(), text.size());
  text.back() = '\0';
  text.resize(text.find('\0'));
  const std::string reason = text.empty() ? "it gives no reason" : text;
  switch (status) {
    case MOEREF_OK:
      return {{"status", "ok"}, {"answer", text}};
    case MOEREF_NOT_SUPPORTED:
      return {{"status", "not_supported"}, {"reason", reason}};
    case MOEREF_ERROR:
      return {{"status", "error"}, {"reason", reason}};
    case MOEREF_LOST:
      return {{"status", "lost"}, {"reason", reason}};
    default:
      return {{"status", "broken"}, {"reason", "bench() returned " + std::to_string(status)}};
  }
} catch (const std::exception& error) {
  return {{"status", "broken"}, {"reason", std::string("a C++ exception left the port: ") + error.what()}};
} catch (...) {
  return {{"status", "broken"}, {"reason", "a C++ exception left the port"}};
}

}  // namespace moeref
