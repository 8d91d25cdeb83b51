// The verdict on a value. All code that compares with the reference calls this.
#pragma once

namespace moeref {

/// r = |value - reference| / bound; at most 1 passes. A reference without a finite bound allows any value,
/// and a bound of 0 the exact value alone (r is infinite for another). Where the reference is not finite the
/// value must not be either: an infinity agrees with itself and with NaN, which may have come from it.
double value_ratio(double value, double reference, double bound);

}  // namespace moeref
