#include "tools/port_host/hosted_call.hpp"

#include <array>
#include <exception>

#include "tools/port_abi/dlpack_types.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Room for a port's own words.
using Reason = std::array<char, 4096>;

std::string text_of(Reason& reason) {
  reason.back() = '\0';
  return reason.data();
}

json reply(const char* status, Reason& reason) {
  std::string text = text_of(reason);
  return {{"status", status}, {"reason", text.empty() ? "it gives no reason" : std::move(text)}};
}

}  // namespace

HostedCall::HostedCall(const json& request, std::byte* block, DLDevice device, void* stream,
                       const moeref_exchange* exchange) {
  const auto keep = [&](const char* field) {
    return texts_.emplace_back(request.at(field).get<std::string>()).c_str();
  };
  for (const json& entry : request.at("tensors")) {
    moeref_named_tensor tensor{};
    tensor.name = texts_.emplace_back(entry.at("name").get<std::string>()).c_str();
    auto& shape = shapes_.emplace_back(entry.at("shape").get<std::vector<std::int64_t>>());
    tensor.tensor.ndim = static_cast<int>(shape.size());
    shape.push_back(0);  // a scalar's shape is a pointer too
    tensor.tensor.shape = shape.data();
    tensor.tensor.data = block + entry.at("offset").get<std::size_t>();
    tensor.tensor.device = device;
    tensor.tensor.dtype = to_dlpack(parse_dtype(entry.at("dtype").get<std::string>()));
    tensor.flags = entry.at("optional").get<bool>() ? MOEREF_OPTIONAL : 0;
    (entry.at("output").get<bool>() ? outputs_ : inputs_).push_back(tensor);
  }
  call_.struct_size = sizeof(moeref_call);
  call_.component = keep("component");
  call_.pass = request.at("backward").get<bool>() ? MOEREF_BACKWARD : MOEREF_FORWARD;
  call_.config = keep("config");
  call_.options = keep("options");
  call_.rank = exchange ? exchange->rank : 0;
  call_.world_size = exchange ? exchange->world_size : 1;
  call_.input_count = inputs_.size();
  call_.inputs = inputs_.data();
  call_.output_count = outputs_.size();
  call_.outputs = outputs_.data();
  call_.stream = stream;
  call_.exchange = exchange;
}

json HostedCall::make(const moeref_port& port) const try {
  Reason reason{};
  if (port.supports) {
    const std::int32_t status = port.supports(&call_, reason.data(), reason.size());
    if (status == MOEREF_NOT_SUPPORTED) return reply("not_supported", reason);
    if (status != MOEREF_OK)
      return {{"status", "broken"}, {"reason", "supports() returned " + std::to_string(status)}};
    reason = {};
  }
  const std::int32_t status = port.run(&call_, reason.data(), reason.size());
  switch (status) {
    case MOEREF_OK:
      return {{"status", "ok"}};
    case MOEREF_NOT_SUPPORTED:
      return reply(port.supports ? "withdrawn" : "not_supported", reason);
    case MOEREF_ERROR:
      return reply("error", reason);
    default:
      return {{"status", "broken"}, {"reason", "run() returned " + std::to_string(status)}};
  }
} catch (const std::exception& error) {
  return {{"status", "broken"}, {"reason", std::string("a C++ exception left the port: ") + error.what()}};
} catch (...) {
  return {{"status", "broken"}, {"reason", "a C++ exception left the port"}};
}

}  // namespace moeref
