// The recipes of the committed golden files, and the notes on the bugs that they name. Both are JSON texts in
// golden/recipes and golden/notes, built into the library.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "golden/catalogue/case_builder.hpp"

namespace moeref {

/// Every recipe, file by file.
const std::vector<CaseSpec>& recipes();

/// A recipe file: {"defaults": {...}, "cases": [{...}, ...]}. Each case is laid over the defaults, objects
/// field by field; "preset": NAME lays it over the reduced config of that preset first. Throws InputError
/// beginning with `source`.
std::vector<CaseSpec> parse_recipes(std::string_view text, std::string_view source);

/// The note in the recipe that a golden file carries; empty where it has none, as foreign files may.
std::string note_of_recipe(const std::string& recipe);

/// How a bug can be seen.
enum class Visibility : std::uint8_t {
  forward,           ///< F: a forward check on ordinary random inputs
  targeted_forward,  ///< F*: a forward check on the input that the note names
  gradients,         ///< G
  ranks,             ///< M: two ranks or more
  state,             ///< S: several calls
  large,             ///< L: large shapes only
  other,             ///< attributes, shapes, races
};

/// A bug that a public implementation really had, phrased as what the wrong code does.
struct BugNote {
  std::string id;       ///< "A1", "M7", "O2": what `flags` name
  std::string project;  ///< "NeMo AutoModel"
  std::string type;     ///< "auxiliary loss", "selection", ...
  std::string wrong;
  std::vector<std::string> references;  ///< links where the repository is known, else its own words for it
  std::vector<Visibility> seen_by;
  bool highest_value = false;        ///< real, cheap and usually missed, on one machine
  std::string not_in_bfloat16 = {};  ///< why a layer of bfloat16 alone cannot show it; empty where one can
};

const std::vector<BugNote>& bug_notes();

/// Null where there is none.
const BugNote* find_bug(std::string_view id);

/// Throws InputError beginning with `source`.
std::vector<BugNote> parse_bug_notes(std::string_view text, std::string_view source);

}  // namespace moeref
