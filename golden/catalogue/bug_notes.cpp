#include <algorithm>
#include <array>
#include <set>

#include "golden/catalogue/embedded_texts.hpp"
#include "golden/catalogue/recipes.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 7> kVisibilities{"F", "F*", "G", "M", "S", "L", "other"};

std::string text_field(const json& note, const char* field) {
  const auto it = note.find(field);
  if (it == note.end() || !it->is_string() || it->get<std::string>().empty())
    throw InputError("note " + note.value("id", json("?")).dump() + " lacks the text '" + field + "'");
  return it->get<std::string>();
}

std::vector<std::string> list_field(const json& note, const char* field) {
  const auto it = note.find(field);
  if (it == note.end() || !it->is_array() || it->empty() ||
      !std::ranges::all_of(*it, [](const json& entry) { return entry.is_string(); }))
    throw InputError("note " + note.value("id", json("?")).dump() + " lacks the list of texts '" + field +
                     "'");
  return it->get<std::vector<std::string>>();
}

BugNote parse_note(const json& note) {
  if (!note.is_object()) throw InputError("a note is " + note.dump().substr(0, 80) + ": want an object");
  BugNote out{text_field(note, "id"),
              text_field(note, "project"),
              text_field(note, "type"),
              text_field(note, "wrong"),
              list_field(note, "references"),
              {},
              note.value("highest_value", false),
              note.contains("not_in_bfloat16") ? text_field(note, "not_in_bfloat16") : ""};
  for (const std::string& seen : list_field(note, "seen_by")) {
    const auto it = std::ranges::find(kVisibilities, seen);
    if (it == kVisibilities.end())
      throw InputError("note '" + out.id + "' is seen by '" + seen + "': want F, F*, G, M, S, L or other");
    out.seen_by.push_back(static_cast<Visibility>(it - kVisibilities.begin()));
  }
  return out;
}

std::vector<BugNote> embedded_notes() {
  std::vector<BugNote> notes;
  for (const EmbeddedText& file : bug_note_texts())
    for (BugNote& note : parse_bug_notes(file.text, file.file)) notes.push_back(std::move(note));
  return notes;
}

}  // namespace

std::vector<BugNote> parse_bug_notes(std::string_view text, std::string_view source) {
  try {
    const json file = json::parse(text);
    if (!file.is_array()) throw InputError("want a list of notes");
    std::vector<BugNote> notes;
    std::set<std::string> ids;
    for (const json& entry : file) {
      notes.push_back(parse_note(entry));
      if (!ids.insert(notes.back().id).second) throw InputError("note '" + notes.back().id + "' comes twice");
    }
    return notes;
  } catch (const json::exception& error) {
    throw InputError(std::string(source) + ": " + error.what());
  } catch (const InputError& error) {
    throw InputError(std::string(source) + ": " + error.what());
  }
}

const std::vector<BugNote>& bug_notes() {
  static const std::vector<BugNote> notes = embedded_notes();
  return notes;
}

const BugNote* find_bug(std::string_view id) {
  const auto it = std::ranges::find(bug_notes(), id, &BugNote::id);
  return it == bug_notes().end() ? nullptr : &*it;
}

}  // namespace moeref
