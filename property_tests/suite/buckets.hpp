// Kinds of input that hide bugs. A run that never met one has tested less than it says, so each is counted on
// the calls themselves, not on what the generator meant to draw.
#pragma once

#include <set>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

struct Bucket {
  std::string_view name;              ///< "empty_expert"
  std::vector<Component> components;  ///< that must meet it
  bool (*met)(const Call& call,
              const NamedTensors& results);  ///< results are empty where the call was not computed
};

const std::vector<Bucket>& buckets();

/// Passes every call on, and notes which buckets it meets.
class BucketObserver final : public Implementation {
 public:
  explicit BucketObserver(Implementation& observed) : observed_(observed) {}

  std::string name() const override { return observed_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override;
  NamedTensors run(const Call& call) override;

  /// Since the last call of this function.
  std::set<std::string_view> take() { return std::exchange(met_, {}); }

 private:
  void note(const Call& call, const NamedTensors& results) const;

  Implementation& observed_;
  mutable std::set<std::string_view> met_;
};

}  // namespace moeref
