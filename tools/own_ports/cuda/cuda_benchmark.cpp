#include "tools/own_ports/cuda/cuda_benchmark.hpp"

#include <stdexcept>
#include <string>

#include "tools/bench/cuda/cuda_bench.hpp"
#include "tools/bench/measurement_json.hpp"
#include "tools/own_ports/implementation_as_port.hpp"

namespace moeref::cuda {
namespace {

using nlohmann::json;

json answer_to(const json& request) {
  // A device has no threads to divide the work by.
  if (request.at("request") == "facts") return {{"facts", bench::device_facts()}, {"threads", 0}};
  json measurements = json::array();
  for (const auto& one : bench::measure(moeref::bench::parse_layer(request),
                                        parse_component(request.at("component").get<std::string>()),
                                        request.at("repeat").get<int>()))
    measurements.push_back(moeref::bench::to_json(one));
  return {{"measurements", std::move(measurements)}};
}

std::int32_t bench_entry(const char* request, char* answer, std::size_t size) try {
  const std::string text = answer_to(json::parse(request)).dump();
  if (text.size() >= size) throw std::runtime_error("the answer does not fit into its buffer");
  put_text(text, answer, size);
  return MOEREF_OK;
} catch (const moeref::bench::DeviceLost& lost) {
  put_text(lost.what(), answer, size);
  return MOEREF_LOST;
} catch (const std::exception& wrong) {
  return give_error(wrong, answer, size);
}

}  // namespace

decltype(moeref_port::bench) benchmark() { return bench_entry; }

}  // namespace moeref::cuda
