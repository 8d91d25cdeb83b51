#include "golden/catalogue/recipes.hpp"

#include "golden/catalogue/embedded_texts.hpp"
#include "golden/catalogue/presets.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Lays `over` on `base`: objects field by field, anything else as a whole. Data choices are wholes, since a
/// parameter belongs to its kind.
void lay_over(json& base, const json& over) {
  for (const auto& [key, value] : over.items()) {
    const bool by_field = (key == "config" || key == "call" || key == "data") && base.contains(key) &&
                          base[key].is_object() && value.is_object();
    if (by_field)
      for (const auto& [field, entry] : value.items()) base[key][field] = entry;
    else
      base[key] = value;
  }
}

json parse_recipe_list(std::string_view text) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    throw InputError(error.what());
  }
}

/// A case with the file's defaults, and its preset, beneath it.
CaseSpec parse_case(const json& defaults, json entry) {
  if (!entry.is_object())
    throw InputError("a case is " + entry.dump().substr(0, 80) + ": want a JSON object");
  json whole = defaults;
  if (const auto preset = entry.find("preset"); preset != entry.end()) {
    if (!preset->is_string())
      throw InputError("field 'preset' is " + preset->dump() + ": want a preset's name");
    const Preset& found = find_preset(preset->get<std::string>());
    lay_over(whole, {{"config", to_json(found.reduced)}, {"call", found.options}});
    entry.erase("preset");
  }
  lay_over(whole, entry);
  return parse_case_spec(whole);
}

std::vector<CaseSpec> embedded_recipes() {
  std::vector<CaseSpec> all;
  for (const EmbeddedText& file : recipe_texts())
    for (CaseSpec& spec : parse_recipes(file.text, file.file)) all.push_back(std::move(spec));
  return all;
}

}  // namespace

std::vector<CaseSpec> parse_recipes(std::string_view text, std::string_view source) {
  try {
    const json file = parse_recipe_list(text);
    if (!file.is_object() || !file.contains("cases") || !file["cases"].is_array())
      throw InputError("want {\"defaults\": {...}, \"cases\": [...]}");
    for (const auto& [key, value] : file.items())
      if (key != "defaults" && key != "cases")
        throw InputError("unknown field '" + key + "': want defaults and cases");
    const json defaults = file.value("defaults", json::object());
    if (!defaults.is_object())
      throw InputError("'defaults' is " + defaults.dump().substr(0, 80) + ": want an object");
    std::vector<CaseSpec> specs;
    for (const json& entry : file["cases"]) specs.push_back(parse_case(defaults, entry));
    return specs;
  } catch (const InputError& error) {
    throw InputError(std::string(source) + ": " + error.what());
  }
}

std::string note_of_recipe(const std::string& recipe) {
  const json parsed = json::parse(recipe, nullptr, false);
  const auto note = parsed.is_object() ? parsed.find("note") : parsed.end();
  return note != parsed.end() && note->is_string() ? note->get<std::string>() : "";
}

const std::vector<CaseSpec>& recipes() {
  static const std::vector<CaseSpec> all = embedded_recipes();
  return all;
}

}  // namespace moeref
