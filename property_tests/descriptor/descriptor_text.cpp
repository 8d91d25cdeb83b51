// Descriptors as lines of text.
#include <array>
#include <charconv>
#include <sstream>
#include <system_error>

#include "moeref/error.hpp"
#include "property_tests/descriptor/descriptor_fields.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

// In the order of the enumerations.
constexpr auto kLogits = std::to_array<std::string_view>(
    {"levels", "rough", "whole", "ties", "equal", "large", "negative", "skewed"});
constexpr auto kValues = std::to_array<std::string_view>({"exact", "rough", "loud"});
constexpr auto kCorrections =
    std::to_array<std::string_view>({"none", "zero", "equal", "normal", "negative"});
constexpr auto kNonFinites = std::to_array<std::string_view>({"none", "nan", "infinity"});
constexpr auto kSpreads = std::to_array<std::string_view>({"even", "uneven", "idle"});
constexpr auto kMasks = std::to_array<std::string_view>(
    {"absent", "none", "random", "first", "last", "every_second", "all_but", "all"});
constexpr auto kIds =
    std::to_array<std::string_view>({"distinct", "skewed", "same", "some_empty", "round_robin", "last_expert",
                                     "duplicates", "absent_slots", "rows"});
constexpr auto kLoads = std::to_array<std::string_view>({"random", "mixed", "zero", "equal", "single"});
constexpr auto kScales = std::to_array<std::string_view>({"small", "kernel", "full"});
constexpr auto kRankKinds = std::to_array<std::string_view>({"expert", "context", "data"});

/// The column of names of a table.
template <typename Row, std::size_t N>
constexpr std::array<std::string_view, N> names_of(const std::array<Row, N>& rows) {
  std::array<std::string_view, N> out;
  for (std::size_t i = 0; i < N; ++i) out[i] = rows[i].name;
  return out;
}

[[noreturn]] void refuse(std::string_view word, std::string_view text, const std::string& want) {
  throw InputError("descriptor field '" + std::string(word) + "' is '" + std::string(text) + "': want " +
                   want);
}

template <typename Enum, std::size_t N>
void read_enum(std::string_view word, std::string_view text, const std::array<std::string_view, N>& names,
               Enum& out) {
  static_assert(has_enumerators<Enum, N>(), "one name per enumerator");
  std::string all;
  for (std::size_t i = 0; i < N; ++i) {
    if (names[i] == text) {
      out = static_cast<Enum>(i);
      return;
    }
    all += " " + std::string(names[i]);
  }
  refuse(word, text, "one of" + all);
}

void read(std::string_view word, std::string_view text, Logits& out) { read_enum(word, text, kLogits, out); }
void read(std::string_view word, std::string_view text, Values& out) { read_enum(word, text, kValues, out); }
void read(std::string_view word, std::string_view text, Correction& out) {
  read_enum(word, text, kCorrections, out);
}
void read(std::string_view word, std::string_view text, NonFinite& out) {
  read_enum(word, text, kNonFinites, out);
}
void read(std::string_view word, std::string_view text, Spread& out) { read_enum(word, text, kSpreads, out); }
void read(std::string_view word, std::string_view text, Mask& out) { read_enum(word, text, kMasks, out); }
void read(std::string_view word, std::string_view text, Ids& out) { read_enum(word, text, kIds, out); }
void read(std::string_view word, std::string_view text, Loads& out) { read_enum(word, text, kLoads, out); }
void read(std::string_view word, std::string_view text, RankKind& out) {
  read_enum(word, text, kRankKinds, out);
}
void read(std::string_view word, std::string_view text, ScoreFunc& out) {
  read_enum(word, text, names_of(kScoreFuncs), out);
}
void read(std::string_view word, std::string_view text, ActivationKind& out) {
  read_enum(word, text, names_of(kActivations), out);
}
void read(std::string_view word, std::string_view text, Float32Products& out) {
  read_enum(word, text, names_of(kFloat32Products), out);
}
template <Convention Enum>
void read(std::string_view word, std::string_view text, Enum& out) {
  constexpr auto names = names_of(rows_of(Enum{}));
  read_enum(word, text, names, out);
}
void read(std::string_view, std::string_view text, DType& out) { out = parse_dtype(text); }
void read(std::string_view, std::string_view text, std::optional<DType>& out) {
  out = text == "none" ? std::nullopt : std::optional(parse_dtype(text));
}

template <typename Number>
void read_number(std::string_view word, std::string_view text, const char* want, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size()) refuse(word, text, want);
}
void read(std::string_view word, std::string_view text, std::int64_t& out) {
  read_number(word, text, "an integer", out);
}
void read(std::string_view word, std::string_view text, double& out) {
  read_number(word, text, "a number", out);
}
void read(std::string_view word, std::string_view text, bool& out) {
  if (text != "true" && text != "false") refuse(word, text, "true or false");
  out = text == "true";
}

std::string write(std::int64_t value) { return std::to_string(value); }
std::string write(bool value) { return value ? "true" : "false"; }
std::string write(double value) {
  std::array<char, 32> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}
std::string write(const std::optional<DType>& value) { return value ? std::string(name(*value)) : "none"; }
template <typename Enum>
std::string write(Enum value) {
  return std::string(name(value));
}

void set_field(Descriptor& d, std::string_view word, std::string_view text) {
  bool known = false;
  visit_fields(d, [&](std::string_view field, auto& member, FieldKind) {
    if (field != word) return;
    known = true;
    read(word, text, member);
  });
  if (word == "seed") {
    known = true;
    read_number(word, text, "a 64-bit integer", d.seed);
  }
  if (!known) throw InputError("the descriptor has an unknown field '" + std::string(word) + "'");
}

}  // namespace

std::string_view name(Logits value) { return kLogits[static_cast<std::size_t>(value)]; }
std::string_view name(Values value) { return kValues[static_cast<std::size_t>(value)]; }
std::string_view name(Correction value) { return kCorrections[static_cast<std::size_t>(value)]; }
std::string_view name(NonFinite value) { return kNonFinites[static_cast<std::size_t>(value)]; }
std::string_view name(Spread value) { return kSpreads[static_cast<std::size_t>(value)]; }
std::string_view name(Mask value) { return kMasks[static_cast<std::size_t>(value)]; }
std::string_view name(Ids value) { return kIds[static_cast<std::size_t>(value)]; }
std::string_view name(Loads value) { return kLoads[static_cast<std::size_t>(value)]; }
std::string_view name(RankKind value) { return kRankKinds[static_cast<std::size_t>(value)]; }
std::string_view name(Scale scale) { return kScales[static_cast<std::size_t>(scale)]; }

Scale parse_scale(std::string_view text) {
  static_assert(has_enumerators<Scale, kScales.size()>(), "one name per enumerator");
  for (std::size_t i = 0; i < kScales.size(); ++i)
    if (kScales[i] == text) return static_cast<Scale>(i);
  throw InputError("the scale is '" + std::string(text) + "': want small, kernel or full");
}

std::string to_line(const Descriptor& descriptor) {
  const Descriptor defaults;
  std::string out(name(descriptor.component));
  visit_fields(descriptor, [&](std::string_view field, const auto& member, FieldKind) {
    visit_fields(defaults, [&](std::string_view other, const auto& fallback, FieldKind) {
      if constexpr (std::is_same_v<decltype(member), decltype(fallback)>)
        if (field == other && member != fallback) out += " " + std::string(field) + "=" + write(member);
    });
  });
  return out + " seed=" + std::to_string(descriptor.seed);
}

Descriptor parse_descriptor(std::string_view line) {
  std::istringstream words{std::string(line)};
  std::string word;
  if (!(words >> word))
    throw InputError("the descriptor is empty: want a component and its fields, \"gate T=7 E=8\"");
  Descriptor out;
  out.component = parse_component(word);
  while (words >> word) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) throw InputError("descriptor word '" + word + "': want field=value");
    set_field(out, std::string_view(word).substr(0, equals), std::string_view(word).substr(equals + 1));
  }
  return out;
}

}  // namespace moeref
