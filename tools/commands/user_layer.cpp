#include "tools/commands/user_layer.hpp"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>

#include "golden/catalogue/presets.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Lays the command line over a case as JSON, once for each component that is wanted.
std::vector<CaseSpec> specs_of(json layer, const LayerRequest& request) {
  if (request.tokens) layer["tokens"] = {*request.tokens};
  if (request.dtype) layer["config"]["dtype"] = name(*request.dtype);
  if (request.seed) layer["seed"] = *request.seed;
  std::vector<json> wanted;
  for (const Component component : request.components) wanted.emplace_back(name(component));
  if (wanted.empty()) wanted.push_back(layer.value("component", json("moe")));

  std::vector<CaseSpec> specs;
  for (const json& component : wanted) {
    layer["component"] = component;
    CaseSpec spec = parse_case_spec(layer);
    if (!layer.contains("backward")) spec.backward = facts(spec.component).has_backward;
    if (spec.component == Component::init)
      spec.tokens.clear();
    else if (!layer.contains("tokens"))
      spec.tokens = {request.default_tokens};
    if (spec.component == Component::mlp)
      parse_mlp_config(spec.config);
    else
      parse_moe_config(spec.config);
    parse_call_options(spec.options);
    specs.push_back(std::move(spec));
  }
  return specs;
}

/// A part of a golden file's name: lower-case letters, digits, '_' and '.'.
std::string case_name_of(const std::filesystem::path& file) {
  std::string name = file.stem().string();
  std::ranges::transform(name, name.begin(), [](unsigned char c) {
    if (c < 0x80 && (std::isalnum(c) || c == '.')) return static_cast<char>(std::tolower(c));
    return '_';
  });
  if (name.empty() || name.front() == '.') name.insert(0, "_");
  return name;
}

/// "line 3, column 7: ..." out of nlohmann's message, which begins with the name of its exception.
std::string why_no_json(const json::parse_error& error) {
  const std::string text = error.what();
  const std::size_t at = text.find("parse error at ");
  return at == std::string::npos ? text : text.substr(at + std::string("parse error at ").size());
}

json read_object(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw InputError("cannot be read: no such file");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad() || std::filesystem::is_directory(file)) throw InputError("cannot be read: is it a file?");
  try {
    json object = json::parse(text);
    if (!object.is_object()) throw InputError("is not a JSON object: " + object.dump().substr(0, 80));
    return object;
  } catch (const json::parse_error& error) {
    throw InputError("is no JSON: " + why_no_json(error));
  }
}

}  // namespace

std::vector<CaseSpec> preset_layer(const std::string& preset, bool full_width, const LayerRequest& request) {
  const Preset& found = find_preset(preset);
  return specs_of({{"case", preset + (full_width ? "_full" : "")},
                   {"config", to_json(full_width ? found.full : found.reduced)},
                   {"call", found.options.is_null() ? json::object() : found.options}},
                  request);
}

std::vector<CaseSpec> user_layer(const std::filesystem::path& file, const LayerRequest& request) {
  try {
    json object = read_object(file);
    if (!object.contains("config")) object = {{"config", std::move(object)}};
    if (!object.contains("case")) object["case"] = case_name_of(file);
    if (!object["config"].is_object()) throw InputError("field 'config' is not a JSON object");
    return specs_of(std::move(object), request);
  } catch (const InputError& error) {
    throw InputError(file.string() + ": " + error.what());
  }
}

}  // namespace moeref
