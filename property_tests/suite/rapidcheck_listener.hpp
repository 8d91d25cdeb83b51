// RapidCheck's global listener reads RC_PARAMS and prints a seed that these tests do not use.
#pragma once

#include <rapidcheck.h>

#include <mutex>
#include <string>

namespace moeref {

class SilentListener final : public rc::detail::TestListener {
 public:
  void onTestCaseFinished(const rc::detail::CaseDescription&) override {}
  void onShrinkTried(const rc::detail::CaseDescription&, bool) override {}
  void onTestFinished(const rc::detail::TestMetadata&, const rc::detail::TestResult&) override {}
};

/// RapidCheck keeps its stacks in static variables. A property may run a second one inside of the first.
inline std::recursive_mutex rapidcheck_in_use;

/// Runs a named RapidCheck property with these parameters alone, one thread at a time.
template <typename Testable>
rc::detail::TestResult run_rapidcheck(const std::string& name, Testable&& testable,
                                      const rc::detail::TestParams& params) {
  const std::lock_guard lock(rapidcheck_in_use);
  SilentListener silent;
  const std::unordered_map<std::string, rc::detail::Reproduce> nothing_to_reproduce;
  return rc::detail::checkTestable(std::forward<Testable>(testable), rc::detail::TestMetadata{name, name},
                                   params, silent, nothing_to_reproduce);
}

}  // namespace moeref
