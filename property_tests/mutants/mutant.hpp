// Mutants: sound implementations with one bug put in, each a row of a table. A suite that does not fail on
// them tests nothing; `moeref mutants` runs them against the golden files and the properties.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

struct Mutant {
  std::string_view name;  ///< "experts_beyond_256", unique
  /// The row in golden/notes/bugs.json or the catalogue ("O39", "A6"); empty without one.
  std::string_view bug = "";
  /// "vllm-ascend #11391": where the bug was public; empty where it is our own.
  std::string_view source = "";
  std::vector<Component> components = {};  ///< where it shows
  std::string_view does = "";              ///< what the wrong code does, in one line
  /// In which tests it can show, as letters: F forward, G gradients, R ranks, S state over several calls,
  /// L large sizes alone, P precision.
  std::string_view shows = "F";
  /// The tensors that a verdict may name first, in words with one space between: "outputs/weights grads/x".
  /// A word that ends with a star stands for all that begin so.
  std::string_view first_wrong = "";
  /// The properties that are there for it and must fail, in words with one space between; empty where golden
  /// files alone see it.
  std::string_view property = "";
  /// The wrong implementation, without a state of its own. Null where `make` is set or the row has a reason.
  NamedTensors (*run)(Implementation& sound, const Call& call) = nullptr;
  /// The wrong implementation where it keeps something from call to call.
  std::unique_ptr<Implementation> (*make)(Implementation& sound) = nullptr;
  std::string_view cannot = "";  ///< why the interface cannot express it; then it is not run
  std::string_view equivalent =
      "";  ///< the proof that no call tells it from a sound one; then it may survive
  /// Why a port of bfloat16 alone cannot show it; then it is not run as one.
  std::string_view not_in_bfloat16 = "";
};

/// Whether there is something to run.
bool expressible(const Mutant& mutant);

/// `sound` with the bug, in a state of its own. `sound` and the row must outlive it.
std::unique_ptr<Implementation> with_mutation(const Mutant& mutant, Implementation& sound);

/// The words of `first_wrong` or `property`.
std::vector<std::string_view> words(std::string_view text);

/// Whether a verdict that names this tensor first is right about the mutant.
bool names_rightly(const Mutant& mutant, std::string_view tensor);

/// Every row of every table.
const std::vector<Mutant>& all_mutants();

/// Null where there is none.
const Mutant* find_mutant(std::string_view name);

}  // namespace moeref
