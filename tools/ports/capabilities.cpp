#include "tools/ports/capabilities.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/call/conventions.hpp"

namespace moeref {
namespace {

using nlohmann::json;

bool is_empty_text(const json& v) { return v.is_string() && v.get_ref<const std::string&>().empty(); }

constexpr std::array kFloats{DType::float32, DType::bfloat16, DType::float16, DType::float64};
constexpr std::array<std::string_view, 5> kStages{"logits", "scores", "up_projection", "activation",
                                                  "down_projection"};

[[noreturn]] void fail(std::string_view field, const json& value, const std::string& want) {
  throw InputError(fmt::format("the port's '{}' is {}: {}", field,
                               value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 80),
                               want));
}

/// Calls use(value) where the field is there.
template <typename Use>
void field(const json& hello, const char* name, Use&& use) {
  if (const auto it = hello.find(name); it != hello.end()) use(*it);
}

std::vector<std::string> texts(const char* field, const json& value) {
  if (!value.is_array() || !std::ranges::all_of(value, [](const json& v) { return v.is_string(); }))
    fail(field, value, "want a list of texts");
  return value.get<std::vector<std::string>>();
}

DType float_of(const char* field, const json& value, const std::string& text) {
  for (const DType dtype : kFloats)
    if (name(dtype) == text) return dtype;
  fail(field, value, "want float32, bfloat16, float16 or float64");
}

template <typename Allowed>
void check_one_of(const char* field, const std::string& text, const Allowed& allowed) {
  if (std::ranges::find(allowed, text) != allowed.end()) return;
  std::string want;
  for (const auto& one : allowed) want += (want.empty() ? "" : ", ") + std::string(one);
  fail(field, json(text), "want one of " + want);
}

}  // namespace

Capabilities parse_capabilities(const json& hello) {
  Capabilities out;
  const auto named = hello.find("name");
  if (named == hello.end() || !named->is_string() || named->get<std::string>().empty())
    throw InputError("the port does not say its name: want \"name\": \"...\"");
  out.name = named->get<std::string>();
  field(hello, "version",
        [&](const json& v) { out.version = v.is_string() ? v.get<std::string>() : v.dump(); });
  out.components.assign(kComponents.begin(), kComponents.end());
  field(hello, "components", [&](const json& v) {
    out.components.clear();
    for (const std::string& text : texts("components", v)) {
      std::vector<std::string_view> known;
      for (const Component c : kComponents) known.push_back(moeref::name(c));
      check_one_of("components", text, known);
      out.components.push_back(parse_component(text));
    }
  });
  field(hello, "passes", [&](const json& v) {
    out.backward = false;
    for (const std::string& text : texts("passes", v)) {
      check_one_of("passes", text, std::array<std::string_view, 2>{"forward", "backward"});
      out.backward = out.backward || text == "backward";
    }
  });
  out.dtypes.assign(kFloats.begin(), kFloats.end());
  field(hello, "dtypes", [&](const json& v) {
    out.dtypes.clear();
    for (const std::string& text : texts("dtypes", v)) out.dtypes.push_back(float_of("dtypes", v, text));
  });
  field(hello, "stages", [&](const json& v) {
    out.stages = texts("stages", v);
    for (const std::string& text : out.stages) check_one_of("stages", text, kStages);
  });
  field(hello, "ties", [&](const json& v) {
    if (v != "open" && v != "lowest_id") fail("ties", v, "want \"open\" or \"lowest_id\"");
    out.lowest_id_first = v == "lowest_id";
  });
  field(hello, "accumulation", [&](const json& v) {
    if (!is_empty_text(v))
      out.accumulation = float_of("accumulation", v, v.is_string() ? v.get<std::string>() : "");
  });
  field(hello, "storage", [&](const json& v) {
    if (!is_empty_text(v)) out.storage = float_of("storage", v, v.is_string() ? v.get<std::string>() : "");
  });
  field(hello, "deterministic", [&](const json& v) {
    if (!v.is_boolean()) fail("deterministic", v, "want true or false");
    out.deterministic = v.get<bool>();
  });
  field(hello, "batch_invariant", [&](const json& v) {
    if (!v.is_boolean()) fail("batch_invariant", v, "want true or false");
    out.batch_invariant = v.get<bool>();
  });
  field(hello, "init_generator", [&](const json& v) {
    if (v != "counter" && v != "own") fail("init_generator", v, "want \"counter\" or \"own\"");
    out.counter_generator = v == "counter";
  });
  field(hello, "products", [&](const json& v) {
    const std::string text = v.is_string() ? v.get<std::string>() : "";
    const auto row = std::ranges::find(kFloat32Products, text, &Float32ProductsFacts::name);
    if (row == kFloat32Products.end()) fail("products", v, "want \"float32\" or \"tf32\"");
    out.products = row->kind;
  });
  field(hello, "conventions", [&](const json& v) { out.conventions = texts("conventions", v); });
  field(hello, "max_processes", [&](const json& v) {
    if (!v.is_number_integer() || v.get<std::int64_t>() < 0)
      fail("max_processes", v, "want an integer of 0 or more");
    out.max_processes = v.get<std::int64_t>();
  });
  field(hello, "max_ranks", [&](const json& v) {
    if (!v.is_number_integer() || v.get<std::int64_t>() < 1)
      fail("max_ranks", v, "want an integer of 1 or more");
    out.max_ranks = v.get<std::int64_t>();
  });
  return out;
}

std::optional<std::string> Capabilities::lack(const Call& call) const {
  if (std::ranges::find(components, call.component) == components.end())
    return fmt::format("{} has no {}", name, moeref::name(call.component));
  if (call.backward && !backward) return name + " has no backward pass";
  if (auto missing = undeclared_convention(call, name, conventions)) return missing;
  const auto has = [&](DType dtype) { return std::ranges::find(dtypes, dtype) != dtypes.end(); };
  const DType dtype = call.component == Component::mlp ? parse_mlp_config(call.config).dtype
                                                       : parse_moe_config(call.config).dtype;
  // The metrics are made of loads alone: no floating type goes in.
  if (call.component != Component::metrics && !has(dtype))
    return fmt::format("{} has no {}", name, moeref::name(dtype));
  for (const TensorSpec& spec : signature(call).inputs)
    if (const Tensor* tensor = find(call.tensors, spec.name);
        tensor && is_floating(spec.dtype) && tensor->dtype() != spec.dtype && !has(tensor->dtype()))
      return fmt::format("{} has no {}, in which {} comes", name, moeref::name(tensor->dtype()), spec.name);
  const std::int64_t ranks = parse_call_options(call.options).parallel.size();
  if (ranks <= max_ranks || processes(call) == ranks) return std::nullopt;
  if (max_processes > 1)
    return fmt::format(
        "{} has at most {} processes per call, and plays at most {} ranks in one; this call has {}", name,
        max_processes, max_ranks, ranks);
  return fmt::format("{} plays at most {} ranks in one call; this one has {}", name, max_ranks, ranks);
}

std::int64_t Capabilities::processes(const Call& call) const {
  const std::int64_t ranks = parse_call_options(call.options).parallel.size();
  return ranks <= max_processes ? ranks : 1;
}

}  // namespace moeref
