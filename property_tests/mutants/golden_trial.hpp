// Mutants against golden files: each file is read once, and the reference computes it once for all mutants.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "moeref/dtype.hpp"
#include "property_tests/mutants/trial.hpp"

namespace moeref {

struct GoldenTrialOptions {
  std::optional<DType> only;  ///< the mutants are ports of this dtype alone, and other files are left out
  std::function<void()> file_done = [] {};  ///< for a progress bar; called from several threads
};

/// What the files say of themselves.
struct GoldenFilesSeen {
  int files = 0;                ///< that were judged
  std::set<std::string> flags;  ///< the bugs that they name
};

/// Judges every file of a mutant's components on its answer and counts into `trials`, on all cores. A mutant
/// with a state has first answered the same call with halved inputs. Throws InputError for a bad file, and
/// for one on which the sound implementation fails.
GoldenFilesSeen try_golden_files(std::span<Trial> trials, std::span<const std::filesystem::path> files,
                                 const GoldenTrialOptions& options);

}  // namespace moeref
