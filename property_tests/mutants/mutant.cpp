#include "property_tests/mutants/mutant.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

/// A mutant without a state of its own.
class Mutation final : public Implementation {
 public:
  Mutation(const Mutant& mutant, Implementation& sound) : mutant_(mutant), sound_(sound) {}
  std::string name() const override { return "mutant: " + std::string(mutant_.name); }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override { return mutant_.run(sound_, call); }

 private:
  const Mutant& mutant_;
  Implementation& sound_;
};

/// A mutant that is sound where slots may be of no expert, or of one without parameters: the bugs of old
/// calls take an id for the number of an expert that has some. The rows of these conventions do without.
class SoundBeyondExperts final : public Implementation {
 public:
  SoundBeyondExperts(std::unique_ptr<Implementation> mutant, Implementation& sound)
      : mutant_(std::move(mutant)), sound_(sound) {}
  std::string name() const override { return mutant_->name(); }
  std::optional<std::string> unsupported(const Call& call) const override {
    return mutant_->unsupported(call);
  }
  NamedTensors run(const Call& call) override {
    const bool beyond = call.config.contains("null_slots") || call.config.contains("n_identity_experts");
    return beyond ? sound_.run(call) : mutant_->run(call);
  }

 private:
  std::unique_ptr<Implementation> mutant_;
  Implementation& sound_;
};

}  // namespace

bool expressible(const Mutant& mutant) { return mutant.run || mutant.make; }

std::unique_ptr<Implementation> with_mutation(const Mutant& mutant, Implementation& sound) {
  std::unique_ptr<Implementation> wrong =
      mutant.make ? mutant.make(sound) : std::make_unique<Mutation>(mutant, sound);
  if (mutant.property == "null_slots" || mutant.property == "identity_experts") return wrong;
  return std::make_unique<SoundBeyondExperts>(std::move(wrong), sound);
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    out.push_back(word);
    text.remove_prefix(std::min(word.size() + 1, text.size()));
  }
  return out;
}

bool names_rightly(const Mutant& mutant, std::string_view tensor) {
  return std::ranges::any_of(words(mutant.first_wrong), [&](std::string_view word) {
    return word.ends_with('*') ? tensor.starts_with(word.substr(0, word.size() - 1)) : tensor == word;
  });
}

const std::vector<Mutant>& all_mutants() {
  static const std::vector<Mutant> all = [] {
    std::vector<Mutant> out;
    for (const MutantTable table : kMutantTables) {
      const std::span<const Mutant> part = table();
      out.insert(out.end(), part.begin(), part.end());
    }
    return out;
  }();
  return all;
}

const Mutant* find_mutant(std::string_view name) {
  const auto found = std::ranges::find(all_mutants(), name, &Mutant::name);
  return found == all_mutants().end() ? nullptr : &*found;
}

}  // namespace moeref
