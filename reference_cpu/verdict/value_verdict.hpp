// The verdict on a value, the only one there is: everything that compares with the reference asks here.
#pragma once

namespace moeref {

/// r = |value - reference| / bound; at most 1 passes. A reference without a finite bound allows any value,
/// and a bound of 0 the exact value alone (r is infinite for another). Where the reference is not finite the
/// value must not be either: an infinity is near itself and near NaN, which may have come of it.
double value_ratio(double value, double reference, double bound);

}  // namespace moeref
