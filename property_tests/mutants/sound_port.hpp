// The sound implementation that mutants wrap: the CPU reference as a port that shows its outputs alone.
#pragma once

#include <optional>
#include <string>

#include "moeref/dtype.hpp"
#include "moeref/reference.hpp"

namespace moeref {

/// The dtype that the call's config asks for.
DType call_dtype(const Call& call);

/// The lowest ids first among equal scores, the same bits for the same call and for a token in any batch.
class SoundPort final : public Implementation {
 public:
  /// With `only`, calls of other dtypes are not supported, and results are rounded to the types that they are
  /// stored in, as a port that computes in that dtype alone gives them.
  explicit SoundPort(std::optional<DType> only = std::nullopt) : only_(only) {}

  std::string name() const override { return "sound"; }
  std::optional<std::string> unsupported(const Call& call) const override;
  NamedTensors run(const Call& call) override;

  /// Keeps the results of this call: most mutants ask for them first.
  const NamedTensors& remember(const Call& call);

 private:
  std::optional<DType> only_;
  Call remembered_;
  std::optional<NamedTensors> results_;
};

}  // namespace moeref
