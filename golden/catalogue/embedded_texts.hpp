// Texts that the build puts into the library (embed_texts.cmake).
#pragma once

#include <span>
#include <string_view>

namespace moeref {

struct EmbeddedText {
  std::string_view file;  ///< "gate.json"
  std::string_view text;
};

std::span<const EmbeddedText> recipe_texts();    ///< golden/recipes/*.json
std::span<const EmbeddedText> bug_note_texts();  ///< golden/notes/bugs.json

}  // namespace moeref
