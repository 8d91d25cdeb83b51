#include "property_tests/mutants/golden_trial.hpp"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <numeric>
#include <vector>

#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"
#include "property_tests/mutants/sound_port.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/verdict/reference_results.hpp"

namespace moeref {
namespace {

/// As the reference declares it.
constexpr JudgeOptions kRule{.lowest_id_first = true};

/// What one file says of one mutant.
struct FileOutcome {
  bool judged = false, failed = false, flagged = false;
  std::string first;  ///< the tensor that the verdict names
  double seconds = 0.0;
};

bool concerns(const Mutant& mutant, Component component) {
  return std::ranges::find(mutant.components, component) != mutant.components.end();
}

/// An earlier call of the same shapes with other values: every floating input and parameter halved.
Call earlier(Call call) {
  for (auto& [name, tensor] : call.tensors)
    if (is_floating(tensor.dtype()))
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, 0.5 * tensor[i]);
  return call;
}

/// One golden file and the reference's results on it, for one mutant after the other.
class OneFile {
 public:
  OneFile(const GoldenFile& golden, std::optional<DType> only)
      : golden_(golden),
        call_(golden.call),
        reference_(golden.call),
        sound_(only),
        right_(sound_.remember(golden.call)) {
    const CaseVerdict verdict = judge(reference_, right_, kRule);
    if (const TensorVerdict* wrong = verdict.first_failure())
      throw InputError(golden.case_name + ": the sound implementation fails at " + wrong->tensor + ": " +
                       wrong->finding);
  }

  FileOutcome outcome(const Mutant& mutant) {
    const auto began = std::chrono::steady_clock::now();
    FileOutcome out;
    out.judged = true;
    out.flagged = std::ranges::find(golden_.flags, mutant.bug) != golden_.flags.end();
    try {
      const std::unique_ptr<Implementation> port = with_mutation(mutant, sound_);
      if (mutant.make) port->run(earlier(call_));
      judge_answer(port->run(call_), out);
      // A mutant may have written to its inputs.
      if (call_.tensors != golden_.call.tensors) call_ = golden_.call;
    } catch (const std::exception& error) {
      out.failed = true;
      out.first = std::string("threw: ") + error.what();
      call_ = golden_.call;
    }
    out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
  }

 private:
  void judge_answer(const NamedTensors& answer, FileOutcome& out) {
    if (answer == right_) return;
    const CaseVerdict verdict = judge(reference_, answer, kRule);
    out.failed = verdict.verdict >= Verdict::fail;
    if (const TensorVerdict* wrong = verdict.first_failure()) out.first = wrong->tensor;
  }

  const GoldenFile& golden_;
  Call call_;
  ReferenceResults reference_;
  SoundPort sound_;
  const NamedTensors& right_;
};

void count(Trial& trial, const FileOutcome& outcome) {
  trial.seconds += outcome.seconds;
  trial.judged += outcome.judged;
  trial.flagged += outcome.flagged;
  if (!outcome.failed) return;
  ++trial.failing;
  trial.flagged_failing += outcome.flagged;
  ++trial.first_named[outcome.first];
  trial.rightly_named += names_rightly(*trial.mutant, outcome.first);
}

}  // namespace

GoldenFilesSeen try_golden_files(std::span<Trial> trials, std::span<const std::filesystem::path> files,
                                 const GoldenTrialOptions& options) {
  GoldenFilesSeen seen;
  std::mutex reading, counting;
  // The largest first, so that no core waits long for the other at the end.
  std::vector<std::filesystem::path> order(files.begin(), files.end());
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [](const auto& file) { return std::filesystem::file_size(file); });
  parallel_for(static_cast<std::int64_t>(order.size()), [&](std::int64_t i) {
    GoldenFile golden;
    {
      const std::lock_guard lock(reading);
      golden = read_golden(order[static_cast<std::size_t>(i)], BoundValues::only_checked);
    }
    std::vector<FileOutcome> outcomes(trials.size());
    const bool wanted = std::ranges::any_of(
        trials, [&](const Trial& t) { return concerns(*t.mutant, golden.call.component); });
    const bool judged = wanted && (!options.only || call_dtype(golden.call) == *options.only);
    if (judged) {
      OneFile file(golden, options.only);
      for (std::size_t t = 0; t < trials.size(); ++t)
        if (concerns(*trials[t].mutant, golden.call.component)) outcomes[t] = file.outcome(*trials[t].mutant);
    }
    const std::lock_guard lock(counting);
    seen.files += judged;
    if (judged) seen.flags.insert(golden.flags.begin(), golden.flags.end());
    for (std::size_t t = 0; t < trials.size(); ++t) count(trials[t], outcomes[t]);
    options.file_done();
  });
  return seen;
}

}  // namespace moeref
