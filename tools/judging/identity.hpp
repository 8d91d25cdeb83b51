// Did the port compute, or does it return the reference's own numbers?
//
// The fp64 reference rounded to float32 is the correctly rounded result. A float32 inner product of K >= 8
// rough terms makes about 2K roundings; the sum before its last rounding is off by some d, and the correctly
// rounded result comes out with the probability 1 - E|d| / ulp (while |d| < ulp; the exact sum lies anywhere
// between two floats). The least d that plain float32 can have is that of a pairwise sum with fused products:
// its levels contribute a variance of ulp^2 / 12 each, so that with K = 8 the deviation before the last
// addition is above 0.4 ulp and E|d| above 0.3 ulp; longer or sequential sums, and chains of several
// products, have more. So each rough element is correctly rounded with probability p <= 0.7 or so. With p =
// 0.9 assumed, all of n = 512 elements have it with probability 0.9^512 = 4e-24: no honest port in any number
// of runs.
//
// Only float32 results of float32 cases with rough inputs count (in bfloat16 the correctly rounded result is
// the likely one), only tensors that inner products end in, and no element that fits into 16 bits (zeros,
// clamped and integral values).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "reference_cpu/verdict/reference_results.hpp"
#include "tools/report/report.hpp"

namespace moeref {

/// Elements that could tell, and those of them that equal the correctly rounded reference.
struct IdentityCount {
  std::int64_t rough = 0, equal = 0;

  bool proof() const;
  IdentityCount& operator+=(const IdentityCount& other);
};

/// By result tensor; empty for calls that cannot tell.
std::map<std::string, IdentityCount> count_identity(ReferenceResults& reference, const NamedTensors& results);

/// The accusation, in one line.
std::string identity_finding(const std::string& where, const IdentityCount& count);

/// Over the cases of a run: small cases prove nothing one by one.
class IdentityEvidence {
 public:
  void add(std::size_t report, Component component, const std::map<std::string, IdentityCount>& counts);

  /// Every case of a component and tensor that prove identity over the run becomes a FAIL. `accuse` false = a
  /// warning, for results whose accumulation type the port did not declare.
  void judge(std::vector<CaseReport>& reports, bool accuse) const;

 private:
  struct Pool {
    IdentityCount count;
    std::vector<std::size_t> reports;
  };
  std::map<std::pair<Component, std::string>, Pool> pools_;
};

}  // namespace moeref
