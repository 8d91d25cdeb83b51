// The rules of the schema that the reader and the writer share: what is refused on one side is never written
// on the other.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/golden_file.hpp"

namespace moeref {

/// A result as it is held: its name, element type and shape.
struct ResultSpec {
  std::string name;
  DType held = DType::float64;
  Shape shape;
};

/// Throws InputError naming the attribute: an empty case name or one with '/', a recipe that is not JSON.
void check_about(const GoldenAbout& about);

/// Throws InputError naming the attribute when the text is not JSON or nests absurdly deep.
nlohmann::json parse_json(std::string_view attribute, const std::string& text);

/// check_inputs, and no NaN or infinity unless `allow_nonfinite`.
void check_call(const Call& call, bool allow_nonfinite);

/// Throws InputError naming the result that the call's signature wants and is missing, is misshapen, has the
/// wrong kind of dtype, or belongs to no such call. Stages may have any name.
void check_results(const Call& call, std::span<const ResultSpec> results);

/// Throws InputError naming the first NaN or negative bound. `first` is added to the element's index in the
/// message.
void check_bounds(std::string_view dataset, std::span<const double> bounds, std::int64_t first);

/// "outputs/", "grads/" or "stages/" in front.
bool is_result(std::string_view dataset);

}  // namespace moeref
