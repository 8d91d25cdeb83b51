// Runs every new mutant on the committed golden files and on the properties, and says what saw it:
//   mutants_differ_test [--properties all|named|survivors] [part of a name ...]
// A row that no call tells from the sound implementation, or whose first wrong tensor is not the one that its
// row names, is an error.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "moeref/golden_file.hpp"
#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "moeref/verdict.hpp"
#include "property_tests/mutants/new_tables.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/verdict/reference_results.hpp"

namespace moeref {
namespace {

/// The reference without its stages, each call of one file computed once.
class Memo final : public Implementation {
 public:
  std::string name() const override { return "sound"; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call& call) override {
    std::string key = std::string(moeref::name(call.component)) + call.config.dump() + call.options.dump() +
                      (call.backward ? "b" : "f");
    for (const auto& [name, tensor] : call.tensors) {
      const auto bytes = tensor.bytes();
      key += name + to_string(tensor.shape()) + std::string(moeref::name(tensor.dtype()));
      key.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    const auto found = answers_.find(key);
    if (found != answers_.end()) return found->second;
    NamedTensors out = CpuReference().run(call);
    std::erase_if(out, [](const auto& entry) { return entry.first.starts_with("stages/"); });
    if (keeps_) answers_.emplace(std::move(key), out);
    return out;
  }
  void forget(bool keep) {
    answers_.clear();
    keeps_ = keep;
  }

 private:
  std::map<std::string, NamedTensors> answers_;
  bool keeps_ = true;
};

class Wrong final : public Implementation {
 public:
  Wrong(Implementation& sound, const Mutant& mutant)
      : sound_(sound), mutant_(mutant), own_(mutant.make ? mutant.make(sound) : nullptr) {}
  std::string name() const override { return std::string(mutant_.name); }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override { return own_ ? own_->run(call) : mutant_.run(sound_, call); }

 private:
  Implementation& sound_;
  const Mutant& mutant_;
  std::unique_ptr<Implementation> own_;
};

struct Seen {
  const Mutant* mutant = nullptr;
  std::unique_ptr<Wrong> wrong;
  int judged = 0, differing = 0, failing = 0;
  std::map<std::string, int> first;
  std::string example, threw;
  std::vector<std::string> properties;
};

bool has_word(std::string_view words, std::string_view word) {
  return (" " + std::string(words) + " ").find(" " + std::string(word) + " ") != std::string::npos;
}

void judge_file(const std::filesystem::path& path, std::vector<Seen>& all, Memo& sound) {
  const GoldenFile file = read_golden(path, BoundValues::only_checked);
  sound.forget(true);
  ReferenceResults reference(file.call);
  for (Seen& seen : all) {
    if (std::ranges::find(seen.mutant->components, file.call.component) == seen.mutant->components.end())
      continue;
    ++seen.judged;
    try {
      const NamedTensors right = sound.run(file.call), wrong = seen.wrong->run(file.call);
      if (wrong == right) continue;
      ++seen.differing;
      const CaseVerdict verdict = judge(reference, wrong);
      if (verdict.verdict < Verdict::fail) continue;
      if (seen.failing++ == 0) seen.example = path.stem().string();
      ++seen.first[verdict.first_failure()->tensor];
    } catch (const std::exception& error) {
      ++seen.failing;
      seen.threw = path.stem().string() + ": " + error.what();
    }
  }
}

bool kills(const Property& property, Seen& seen) {
  RunOptions options;
  options.cases = 60;
  options.seed = 7;
  options.components = seen.mutant->components;
  options.declared = {.lowest_id_first = true, .repeatable = true, .batch_invariant = true};
  const RunReport report = run_property(property, *seen.wrong, options);
  return report.status == RunStatus::failed || report.status == RunStatus::flaky;
}

void ask_properties(Seen& seen, std::string_view which) {
  for (const Property& property : properties()) {
    const bool concerns = std::ranges::any_of(property.components, [&](Component c) {
      return std::ranges::find(seen.mutant->components, c) != seen.mutant->components.end();
    });
    const bool named = property.name == seen.mutant->property;
    if (!concerns || (which == "named" && !named)) continue;
    if (kills(property, seen)) seen.properties.emplace_back(property.name);
  }
}

int report(const Seen& seen, bool asked) {
  const Mutant& m = *seen.mutant;
  int errors = 0;
  std::printf("%-44s %3d/%3d/%3d ", std::string(m.name).c_str(), seen.failing, seen.differing, seen.judged);
  for (const auto& [tensor, count] : seen.first) {
    const bool named = has_word(m.first_wrong, tensor);
    std::printf(" %s:%d%s", tensor.c_str(), count, named ? "" : "(NOT NAMED)");
    errors += named ? 0 : 1;
  }
  std::printf("  [%s]", seen.example.c_str());
  if (!seen.threw.empty()) std::printf("  THREW %s", seen.threw.c_str());
  if (asked) {
    std::printf("  properties:");
    for (const std::string& name : seen.properties) std::printf(" %s", name.c_str());
    const bool found =
        m.property.empty() || std::ranges::find(seen.properties, m.property) != seen.properties.end();
    if (!found) std::printf(" (NOT BY %s)", std::string(m.property).c_str());
    errors += found ? 0 : 1;
  }
  if (seen.failing == 0 && seen.properties.empty())
    std::printf("  SURVIVES%s", m.equivalent.empty() ? "" : " (equivalent)");
  std::printf("\n");
  std::fflush(stdout);
  return errors;
}

std::vector<Seen> asked_for(Memo& sound, const std::vector<std::string>& words) {
  std::vector<Seen> out;
  std::set<std::string_view> names;
  for (const auto table :
       {router_catalogue_mutants(), loss_catalogue_mutants(), bias_catalogue_mutants(),
        experts_catalogue_mutants(), layer_catalogue_mutants(), ranks_catalogue_mutants(),
        inexpressible_mutants(), bugs_2026_mutants(), router_size_mutants(), experts_size_mutants(),
        precision_mutants(), slope_mutants(), gradient_mutants(), other_suite_mutants(), cheating_mutants()})
    for (const Mutant& mutant : table) {
      if (!names.insert(mutant.name).second)
        std::printf("%s stands twice\n", std::string(mutant.name).c_str());
      const bool wanted = words.empty() || std::ranges::any_of(words, [&](const std::string& word) {
                            return mutant.name.find(word) != std::string_view::npos;
                          });
      if (!wanted || !mutant.cannot.empty()) continue;
      Seen& seen = out.emplace_back();
      seen.mutant = &mutant;
      seen.wrong = std::make_unique<Wrong>(sound, mutant);
    }
  std::printf("%zu rows, %zu to run\n", names.size(), out.size());
  return out;
}

int run(std::vector<std::string> words) {
  std::string which = "survivors";
  if (words.size() > 1 && words[0] == "--properties") {
    which = words[1];
    words.erase(words.begin(), words.begin() + 2);
  }
  set_thread_count(1);
  Memo sound;
  std::vector<Seen> all = asked_for(sound, words);
  std::vector<std::filesystem::path> folder{MOEREF_GOLDEN_CASES};
  for (const auto& path : list_golden_files(folder)) judge_file(path, all, sound);
  sound.forget(false);
  int errors = 0;
  for (Seen& seen : all) {
    const bool ask = which == "all" || which == "named" || (which == "survivors" && seen.failing == 0);
    if (ask) ask_properties(seen, which);
    errors += report(seen, ask);
  }
  std::printf("%d errors\n", errors);
  return errors == 0 ? 0 : 1;
}

}  // namespace
}  // namespace moeref

int main(int argc, char** argv) { return moeref::run({argv + 1, argv + argc}); }
