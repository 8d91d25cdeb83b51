#include "golden/format/schema_rules.hpp"

#include <algorithm>
#include <cmath>

#include "moeref/error.hpp"
#include "moeref/signature.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Deeper than any config or recipe, and shallow enough for recursive code.
constexpr int kDeepestJson = 32;

template <typename T>
std::int64_t first_nonfinite(std::span<const T> values) {
  const auto it = std::ranges::find_if(values, [](T v) { return !std::isfinite(v); });
  return it == values.end() ? -1 : it - values.begin();
}

/// The exponent of a 16-bit format is all ones in its NaN and infinities.
std::int64_t first_nonfinite(std::span<const std::uint16_t> bits, std::uint16_t exponent) {
  const auto it = std::ranges::find_if(bits, [&](std::uint16_t v) { return (v & exponent) == exponent; });
  return it == bits.end() ? -1 : it - bits.begin();
}

std::int64_t first_nonfinite(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::float64:
      return first_nonfinite(tensor.as<double>());
    case DType::float32:
      return first_nonfinite(tensor.as<float>());
    case DType::bfloat16:
      return first_nonfinite(tensor.as<std::uint16_t>(), 0x7f80);
    case DType::float16:
      return first_nonfinite(tensor.as<std::uint16_t>(), 0x7c00);
    case DType::int64:
    case DType::boolean:
    case DType::uint8:
      break;
  }
  return -1;
}

std::string dataset(std::string_view name) { return "dataset '" + std::string(name) + "'"; }

}  // namespace

void check_about(const GoldenAbout& about) {
  const bool control =
      std::ranges::any_of(about.case_name, [](unsigned char c) { return c < 0x20 || c == '/'; });
  if (about.case_name.empty() || control)
    throw InputError("attribute 'case' is '" + about.case_name + "': want a name without '/'");
  if (!about.recipe.empty()) parse_json("recipe", about.recipe);
}

json parse_json(std::string_view attribute, const std::string& text) {
  const std::string where = "attribute '" + std::string(attribute) + "'";
  try {
    return json::parse(text, [&](int depth, json::parse_event_t, json&) {
      if (depth > kDeepestJson)
        throw InputError(where + " nests deeper than " + std::to_string(kDeepestJson));
      return true;
    });
  } catch (const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 3: ..."
    const std::string_view what = error.what();
    const auto start = what.find("] ");
    throw InputError(where + " is not JSON: " +
                     std::string(start == std::string_view::npos ? what : what.substr(start + 2)));
  }
}

void check_call(const Call& call, bool allow_nonfinite) {
  check_inputs(call);
  if (allow_nonfinite) return;
  for (const auto& [name, tensor] : call.tensors)
    if (const std::int64_t at = first_nonfinite(tensor); at >= 0)
      throw InputError(dataset(name) + " holds " + (std::isnan(tensor[at]) ? "NaN" : "an infinity") +
                       " at element " + std::to_string(at) +
                       ": want finite values, or the attribute allow_nonfinite = 1");
}

void check_results(const Call& call, std::span<const ResultSpec> results) {
  const Signature want = signature(call);
  for (const TensorSpec& spec : want.outputs) {
    const auto it = std::ranges::find(results, spec.name, &ResultSpec::name);
    if (it == results.end()) {
      if (spec.required) throw InputError("missing " + dataset(spec.name));
      continue;
    }
    if (it->shape != spec.shape)
      throw InputError(dataset(spec.name) + " has shape " + to_string(it->shape) + ": want " +
                       to_string(spec.shape));
    const bool same_kind = is_floating(spec.dtype) ? is_floating(it->held) : spec.dtype == it->held;
    if (!same_kind)
      throw InputError(dataset(spec.name) + " has dtype " + std::string(name(it->held)) + ": want " +
                       (is_floating(spec.dtype) ? "a floating one such as " : "") +
                       std::string(name(spec.dtype)));
  }
  for (const ResultSpec& result : results)
    if (!result.name.starts_with("stages/") &&
        std::ranges::find(want.outputs, result.name, &TensorSpec::name) == want.outputs.end())
      throw InputError(dataset(result.name) + " belongs to no result of this " +
                       std::string(name(call.component)) + " call");
}

void check_bounds(std::string_view name, std::span<const double> bounds, std::int64_t first) {
  const auto it = std::ranges::find_if(bounds, [](double b) { return !(b >= 0.0); });
  if (it == bounds.end()) return;
  throw InputError(dataset(name) + " holds " + (std::isnan(*it) ? "NaN" : "a negative number") +
                   " at element " + std::to_string(first + (it - bounds.begin())) +
                   ": want bounds of 0 or more");
}

bool is_result(std::string_view dataset) {
  return dataset.starts_with("outputs/") || dataset.starts_with("grads/") || dataset.starts_with("stages/");
}

}  // namespace moeref
