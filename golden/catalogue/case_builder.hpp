// Cases as recipes describe them: a few fields, printed as one line of JSON, and the calls with all their
// tensors that are built from them. Golden files store the description, so that they can be regenerated.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "golden/catalogue/data_choice.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// What one entry of a recipe says.
struct CaseSpec {
  std::string name;  ///< lower-case letters, digits, '_' and '.': a part of the file's name
  Component component = Component::gate;
  nlohmann::json config = nlohmann::json::object();
  nlohmann::json options = nlohmann::json::object();  ///< "call" in JSON
  Shape tokens;                                       ///< {T} or {B, S}; layers for metrics; empty for init
  bool backward = false;
  std::optional<DType> x_dtype;  ///< of inputs and cotangents; the config's where it is not given
  std::uint64_t seed = 1;
  /// Tokens are redrawn until scores decide their experts by this many times the sum of the bounds on both
  /// sides of every cut: at 1 every honest implementation selects the same ones. 0 where the case is about
  /// ties.
  double margin = 2.0;
  std::vector<std::string> flags;  ///< named bugs that the case catches
  std::string note;                ///< why it is there
  DataChoices data;

  friend bool operator==(const CaseSpec&, const CaseSpec&) = default;
};

/// "gate/sigmoid_groups", as messages name a case.
std::string label(const CaseSpec& spec);

/// "gate__sigmoid_groups", as lists and command lines name a case, and its file: the same with ".h5".
std::string full_name(const CaseSpec& spec);
std::string file_name(const CaseSpec& spec);

/// Throws InputError naming the case and the field that is missing, unknown or wrong. The config is checked
/// when the call is built.
CaseSpec parse_case_spec(const nlohmann::json& json);

/// Fields with a default appear only where they differ from it; parse_case_spec gives the same spec back.
nlohmann::json to_json(const CaseSpec& spec);

/// The call with all its tensors. Throws InputError naming the case: for an impossible config, and for a
/// token whose x could not be drawn with the margin.
Call build_call(const CaseSpec& spec);

}  // namespace moeref
