// Descriptors to and from JSON.
#include <algorithm>
#include <functional>

#include "golden/catalogue/case_builder.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

void want(bool ok, std::string_view field, const json& value, std::string_view what) {
  if (!ok)
    throw InputError("field '" + std::string(field) + "' is " + value.dump() + ": want " + std::string(what));
}

bool file_name_part(const std::string& name) {
  return !name.empty() && name.front() != '.' && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

Shape parse_tokens(const json& value) {
  const char* wanted = "[T] or [B, S], with extents from 0 to 2^22";
  want(value.is_array() && value.size() <= 3, "tokens", value, wanted);
  Shape tokens;
  for (const json& extent : value) {
    want(extent.is_number_integer() && extent >= 0 && extent <= (1 << 22), "tokens", value, wanted);
    tokens.push_back(extent.get<std::int64_t>());
  }
  return tokens;
}

/// One field of a spec: how it is read, and what is written for it (null where it has its default).
struct Field {
  const char* name;
  bool required;
  std::function<void(const json&, CaseSpec&)> read;
  std::function<json(const CaseSpec&)> write;
};

json unless(bool is_default, json value) { return is_default ? json() : std::move(value); }

const std::vector<Field>& fields() {
  static const std::vector<Field> table{
      {"case", true,
       [](const json& v, CaseSpec& s) {
         want(v.is_string() && file_name_part(v.get<std::string>()), "case", v,
              "lower-case letters, digits, '_' and '.'");
         s.name = v.get<std::string>();
       },
       [](const CaseSpec& s) { return json(s.name); }},
      {"component", true,
       [](const json& v, CaseSpec& s) {
         want(v.is_string(), "component", v, "a component's name");
         s.component = parse_component(v.get<std::string>());
       },
       [](const CaseSpec& s) { return json(name(s.component)); }},
      {"config", true,
       [](const json& v, CaseSpec& s) {
         want(v.is_object(), "config", v, "an object");
         s.config = v;
       },
       [](const CaseSpec& s) { return s.config; }},
      {"call", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_object(), "call", v, "an object");
         s.options = v;
       },
       [](const CaseSpec& s) { return unless(s.options.empty(), s.options); }},
      {"tokens", false, [](const json& v, CaseSpec& s) { s.tokens = parse_tokens(v); },
       [](const CaseSpec& s) { return unless(s.tokens.empty(), s.tokens); }},
      {"backward", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_boolean(), "backward", v, "true or false");
         s.backward = v.get<bool>();
       },
       [](const CaseSpec& s) { return unless(!s.backward, s.backward); }},
      {"x_dtype", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_string(), "x_dtype", v, "a dtype name");
         s.x_dtype = parse_dtype(v.get<std::string>());
         want(is_floating(*s.x_dtype), "x_dtype", v, "float64, float32, bfloat16 or float16");
       },
       [](const CaseSpec& s) { return s.x_dtype ? json(name(*s.x_dtype)) : json(); }},
      {"seed", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_number_integer() && v >= 0, "seed", v, "a non-negative integer");
         s.seed = v.get<std::uint64_t>();
       },
       [](const CaseSpec& s) { return unless(s.seed == 1, s.seed); }},
      {"margin", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_number() && v >= 0, "margin", v, "0 (ties are the point) or more");
         s.margin = v.get<double>();
       },
       [](const CaseSpec& s) { return unless(s.margin == 2.0, s.margin); }},
      {"flags", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_array() && std::ranges::all_of(v, [](const json& f) { return f.is_string(); }), "flags", v,
              "a list of bug ids");
         s.flags = v.get<std::vector<std::string>>();
       },
       [](const CaseSpec& s) { return unless(s.flags.empty(), s.flags); }},
      {"note", false,
       [](const json& v, CaseSpec& s) {
         want(v.is_string(), "note", v, "a text");
         s.note = v.get<std::string>();
       },
       [](const CaseSpec& s) { return unless(s.note.empty(), s.note); }},
      {"data", false, [](const json& v, CaseSpec& s) { s.data = parse_data_choices(v); },
       [](const CaseSpec& s) { return unless(s.data.empty(), to_json(s.data)); }},
  };
  return table;
}

}  // namespace

std::string label(const CaseSpec& spec) { return std::string(name(spec.component)) + "/" + spec.name; }

std::string full_name(const CaseSpec& spec) { return std::string(name(spec.component)) + "__" + spec.name; }

std::string file_name(const CaseSpec& spec) { return full_name(spec) + ".h5"; }

CaseSpec parse_case_spec(const json& object) {
  if (!object.is_object())
    throw InputError("a case is " + object.dump().substr(0, 80) + ": want a JSON object");
  const std::string where = "case '" + object.value("component", json("?")).dump() + "/" +
                            object.value("case", json("?")).dump() + "': ";
  CaseSpec spec;
  try {
    std::size_t known = 0;
    for (const Field& field : fields()) {
      const auto it = object.find(field.name);
      if (it == object.end()) {
        if (field.required) throw InputError("lacks the field '" + std::string(field.name) + "'");
        continue;
      }
      ++known;
      field.read(*it, spec);
    }
    if (known != object.size())
      for (const auto& item : object.items())
        if (std::ranges::none_of(fields(), [&](const Field& field) { return item.key() == field.name; }))
          throw InputError("has an unknown field '" + item.key() + "'");
  } catch (const InputError& error) {
    std::string text = where + error.what();
    std::erase(text, '"');
    throw InputError(text);
  }
  return spec;
}

json to_json(const CaseSpec& spec) {
  json out = json::object();
  for (const Field& field : fields())
    if (json value = field.write(spec); !value.is_null()) out[field.name] = std::move(value);
  return out;
}

}  // namespace moeref
