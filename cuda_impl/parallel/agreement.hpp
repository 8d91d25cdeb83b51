// Steps that each rank takes by itself, and that all must have taken before one goes on.
#pragma once

#include <cstring>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>

#include "moeref/cuda/bootstrap.hpp"

namespace moeref::cuda {

/// What `step` gave on each rank, in their order. Where it throws, all ranks leave with an exception: a rank
/// that failed with its own, the others with a GroupError that names the first of those and says why. `group`
/// is the name in that message. Collective.
template <class Step, class T = std::invoke_result_t<Step>>
requires(!std::is_void_v<T>) std::vector<T> agree(Bootstrap& bootstrap, const std::string& group,
                                                  Step&& step) {
  static_assert(std::is_trivially_copyable_v<T>, "ranks tell each other bytes");
  struct Outcome {
    bool failed;
    char why[255];
    T value;
  };
  Outcome mine{};
  std::exception_ptr failure;
  try {
    mine.value = step();
  } catch (const std::exception& e) {
    failure = std::current_exception();
    mine.failed = true;
    std::strncpy(mine.why, e.what(), sizeof mine.why - 1);
  }
  std::vector<Outcome> all(static_cast<std::size_t>(bootstrap.size()));
  bootstrap.all_gather(mine, all.data());
  if (failure) std::rethrow_exception(failure);
  std::vector<T> out;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].failed) throw GroupError("rank " + std::to_string(r) + " of the " + group + ": " + all[r].why);
    out.push_back(all[r].value);
  }
  return out;
}

/// The same for a step that gives nothing to the others.
template <class Step>
requires std::is_void_v<std::invoke_result_t<Step>>
void agree(Bootstrap& bootstrap, const std::string& group, Step&& step) {
  agree(bootstrap, group, [&] {
    step();
    return true;
  });
}

}  // namespace moeref::cuda
