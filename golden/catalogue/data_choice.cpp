#include "golden/catalogue/data_choice.hpp"

#include <array>

#include "golden/catalogue/data_kinds.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

struct Role {
  std::string_view name;
  std::vector<DataKind> kinds;
  DataChoice fallback;
};

// In the order of DataRole.
const std::array<Role, 14>& roles() {
  static const std::array<Role, 14> table{{
      {"x", real_kinds(), {"normal", {}}},
      {"mask", mask_kinds(), {"absent", {}}},
      {"gate_weight", real_kinds(), {"fan_in", {}}},
      {"router_bias", real_kinds(), {"normal", {{"scale", 0.5}}}},
      {"correction_bias", real_kinds(), {"normal", {{"scale", 0.1}}}},
      {"params", real_kinds(), {"fan_in", {}}},
      {"biases", real_kinds(), {"normal", {{"scale", 0.5}}}},
      {"gate_bias", real_kinds(), {}},
      {"indices", id_kinds(), {"distinct", {}}},
      {"replay", id_kinds(), {"absent", {}}},
      {"weights", real_kinds(), {"uniform", {{"low", 0.05}}}},
      {"scores", real_kinds(), {"probabilities", {}}},
      {"cotangents", real_kinds(), {"normal", {}}},
      {"loads", load_kinds(), {"random", {}}},
  }};
  return table;
}

template <typename Named>
std::string names_of(const Named& table) {
  std::string names;
  for (const auto& entry : table) names += " " + std::string(entry.name);
  return names.empty() ? " none" : names;
}

DataChoice parse_choice(const Role& role, const json& value) {
  const std::string at = "data choice '" + std::string(role.name) + "'";
  const bool short_form = value.is_string();
  if (!short_form && (!value.is_object() || !value.contains("kind") || !value["kind"].is_string()))
    throw InputError(at + " is " + value.dump() + ": want a kind or {\"kind\": ..., parameters}");
  DataChoice choice{short_form ? value.get<std::string>() : value["kind"].get<std::string>(), {}};
  const DataKind* kind = find_kind(role.kinds, choice.kind);
  if (!kind)
    throw InputError(at + " has the unknown kind '" + choice.kind + "': want one of" + names_of(role.kinds));
  if (short_form) return choice;
  for (const auto& [key, number] : value.items()) {
    if (key == "kind") continue;
    const DataParameter* parameter = find_kind(kind->parameters, key);
    if (!parameter)
      throw InputError(at + " has the unknown parameter '" + key + "': " + choice.kind + " takes" +
                       names_of(kind->parameters));
    if (!number.is_number() ||
        !(number.get<double>() >= parameter->least && number.get<double>() <= parameter->most))
      throw InputError(at + " has '" + key + "' = " + number.dump() + ": want a number from " +
                       json(parameter->least).dump() + " to " + json(parameter->most).dump());
    choice.parameters[key] = number.get<double>();
  }
  return choice;
}

}  // namespace

std::string_view name(DataRole role) { return roles()[static_cast<std::size_t>(role)].name; }

double DataChoice::operator[](std::string_view parameter) const {
  if (const auto it = parameters.find(parameter); it != parameters.end()) return it->second;
  for (const DataRole role : {DataRole::x, DataRole::mask, DataRole::indices, DataRole::loads})
    if (const DataKind* entry = find_kind(roles()[static_cast<std::size_t>(role)].kinds, kind))
      if (const DataParameter* found = find_kind(entry->parameters, parameter)) return found->fallback;
  throw InputError("data of the kind '" + kind + "' has no parameter '" + std::string(parameter) + "'");
}

DataChoice choice_of(const DataChoices& choices, DataRole role) {
  if (const auto it = choices.find(role); it != choices.end()) return it->second;
  if (role == DataRole::gate_bias) return choice_of(choices, DataRole::biases);
  return roles()[static_cast<std::size_t>(role)].fallback;
}

DataChoices parse_data_choices(const json& object) {
  if (!object.is_object()) throw InputError("'data' is " + object.dump() + ": want an object of choices");
  DataChoices choices;
  for (const auto& [key, value] : object.items()) {
    const Role* role = find_kind(roles(), key);
    if (!role) throw InputError("unknown data choice '" + key + "': want one of" + names_of(roles()));
    choices[static_cast<DataRole>(role - roles().data())] = parse_choice(*role, value);
  }
  return choices;
}

json to_json(const DataChoices& choices) {
  json out = json::object();
  for (const auto& [role, choice] : choices) {
    json& entry = out[std::string(name(role))];
    if (choice.parameters.empty()) {
      entry = choice.kind;
      continue;
    }
    entry["kind"] = choice.kind;
    for (const auto& [key, value] : choice.parameters) entry[key] = value;
  }
  return out;
}

}  // namespace moeref
