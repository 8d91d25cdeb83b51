// moeref list: what there is.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>

#include "golden/catalogue/presets.hpp"
#include "golden/catalogue/recipes.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/property.hpp"
#include "property_tests/mutants/mutant.hpp"
#include "reference_cpu/call/config_fields.hpp"
#include "tools/commands/commands.hpp"
#include "tools/ports/port.hpp"
#include "tools/terminal/columns.hpp"

namespace moeref {
namespace {

Cell bold(std::string text, bool right = false) { return {std::move(text), Colour::bold, right}; }
Cell number(std::int64_t value) { return {std::to_string(value), Colour::plain, true}; }

std::vector<Row> implementations() {
  std::vector<Row> rows{{bold("port"), bold("what it is")}};
  for (const PortKind& kind : port_kinds())
    rows.push_back({{std::string(kind.syntax)}, {std::string(kind.summary)}});
  return rows;
}

std::vector<Row> components() {
  std::vector<Row> rows{{bold("component"), bold("cases", true)}};
  for (const Component component : kComponents) {
    const auto count = std::ranges::count(recipes(), component, &CaseSpec::component);
    rows.push_back({{std::string(name(component))}, number(count)});
  }
  return rows;
}

std::vector<Row> cases() {
  std::vector<Row> rows{
      {bold("case"), bold("tokens", true), bold("passes"), bold("bugs that it catches"), bold("note")}};
  for (const CaseSpec& spec : recipes())
    rows.push_back({{full_name(spec)},
                    {to_string(spec.tokens), Colour::plain, true},
                    {spec.backward ? "both" : "forward"},
                    {fmt::format("{}", fmt::join(spec.flags, " "))},
                    {spec.note}});
  return rows;
}

std::vector<Row> preset_rows() {
  std::vector<Row> rows{{bold("preset"), bold("E", true), bold("k", true), bold("D", true), bold("I", true),
                         bold("shared", true), bold("scores"), bold("activation"), bold("model")}};
  for (const Preset& preset : presets()) {
    const MoEConfig& c = preset.full;
    rows.push_back({{preset.name},
                    number(c.n_routed_experts),
                    number(c.n_activated_experts),
                    number(c.dim),
                    number(c.moe_inter_dim),
                    number(c.n_shared_experts),
                    {std::string(name(c.score_func))},
                    {std::string(name(c.expert_activation))},
                    {preset.model}});
  }
  return rows;
}

std::vector<Row> property_rows() {
  std::vector<Row> rows{
      {bold("id"), bold("property"), bold("class"), bold("components"), bold("what it checks")}};
  for (const Property& property : properties()) {
    std::vector<std::string_view> components;
    for (const Component c : property.components) components.push_back(name(c));
    rows.push_back({{std::string(property.id)},
                    {std::string(property.name)},
                    {std::string(name(property.property_class))},
                    {fmt::format("{}", fmt::join(components, " "))},
                    {std::string(property.checks)}});
  }
  return rows;
}

std::vector<Row> mutant_rows() {
  std::vector<Row> rows{{bold("mutant"), bold("bug"), bold("components"), bold("shows"),
                         bold("what the wrong code does"), bold("public as")}};
  for (const Mutant& mutant : all_mutants()) {
    std::vector<std::string_view> components;
    for (const Component c : mutant.components) components.push_back(name(c));
    rows.push_back({{std::string(mutant.name)},
                    {std::string(mutant.bug)},
                    {fmt::format("{}", fmt::join(components, " "))},
                    {mutant.cannot.empty() ? std::string(mutant.shows) : "not run"},
                    {std::string(mutant.does)},
                    {std::string(mutant.source)}});
  }
  return rows;
}

std::vector<Row> field_rows() {
  std::vector<Row> rows{{bold("of"), bold("field"), bold("type"), bold("default"), bold("kind"),
                         bold("what it means"), bold("who reads it")}};
  for (const FieldTable& table : field_tables())
    for (const FieldText& field : table.fields)
      rows.push_back({{std::string(table.name)},
                      {field.name},
                      {field.type},
                      {field.required ? "must be given" : field.fallback.dump()},
                      {field.convention ? "convention" : ""},
                      {field.meaning},
                      {field.readers}});
  return rows;
}

/// The same for other languages: {"config": {"dim": {"type": "integer", "required": true, ...}}}.
nlohmann::ordered_json fields_json() {
  nlohmann::ordered_json out;
  for (const FieldTable& table : field_tables())
    for (const FieldText& field : table.fields) {
      nlohmann::ordered_json& entry = out[std::string(table.name)][field.name];
      entry["type"] = field.type;
      entry["required"] = field.required;
      if (!field.required) entry["default"] = field.fallback;
      if (field.convention) entry["convention"] = true;
      entry["meaning"] = field.meaning;
      entry["readers"] = field.readers;
    }
  return out;
}

struct Section {
  std::string_view name;
  std::vector<Row> (*rows)();
};
constexpr std::array kSections{Section{"implementations", implementations},
                               Section{"components", components},
                               Section{"cases", cases},
                               Section{"properties", property_rows},
                               Section{"mutants", mutant_rows},
                               Section{"presets", preset_rows},
                               Section{"fields", field_rows}};

std::string section_names() {
  std::string names;
  for (const Section& section : kSections) names += (names.empty() ? "" : ", ") + std::string(section.name);
  return names;
}

int list(const std::string& wanted, bool json) {
  const auto known = std::ranges::find(kSections, wanted, &Section::name);
  if (!wanted.empty() && known == kSections.end())
    throw InputError("nothing to list by the name '" + wanted + "': want one of " + section_names());
  if (json && wanted != "fields") throw InputError("--json lists fields alone: moeref list fields --json");
  if (json) {
    fmt::print("{}\n", fields_json().dump(1));
    return kExitPassed;
  }
  bool first = true;
  for (const Section& section : kSections) {
    if (!wanted.empty() && section.name != wanted) continue;
    if (wanted.empty())
      fmt::print("{}{}\n", first ? "" : "\n", coloured(section.name, Colour::bold, shows_colours(stdout)));
    fmt::print("{}", columns(section.rows(), shows_colours(stdout)));
    first = false;
  }
  return kExitPassed;
}

}  // namespace

Command list_command(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("list", "Show what there is: " + section_names());
  const auto wanted = std::make_shared<std::string>();
  app->add_option("WHAT", *wanted, "One of " + section_names() + "; everything without it")->type_name("");
  const auto json = std::make_shared<bool>(false);
  app->add_flag("--json", *json, "Config fields and call options as JSON");
  return {app, [wanted, json] { return list(*wanted, *json); }};
}

}  // namespace moeref
