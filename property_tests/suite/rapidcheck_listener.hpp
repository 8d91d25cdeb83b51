// RapidCheck's global listener reads RC_PARAMS and prints a seed that these tests do not use.
#pragma once

#include <rapidcheck.h>

#include <string>

namespace moeref {

class SilentListener final : public rc::detail::TestListener {
 public:
  void onTestCaseFinished(const rc::detail::CaseDescription&) override {}
  void onShrinkTried(const rc::detail::CaseDescription&, bool) override {}
  void onTestFinished(const rc::detail::TestMetadata&, const rc::detail::TestResult&) override {}
};

/// Runs a named RapidCheck property with these parameters alone.
template <typename Testable>
rc::detail::TestResult run_rapidcheck(const std::string& name, Testable&& testable,
                                      const rc::detail::TestParams& params) {
  SilentListener silent;
  const std::unordered_map<std::string, rc::detail::Reproduce> nothing_to_reproduce;
  return rc::detail::checkTestable(std::forward<Testable>(testable), rc::detail::TestMetadata{name, name},
                                   params, silent, nothing_to_reproduce);
}

}  // namespace moeref
