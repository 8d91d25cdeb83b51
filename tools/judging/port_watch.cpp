#include "tools/judging/port_watch.hpp"

#include "moeref/property.hpp"
#include "tools/ports/port.hpp"

namespace moeref {

NamedTensors PortWatch::run(const Call& call) {
  if (worst_ == Verdict::hung) throw Discarded("the port hung in an earlier call");
  try {
    return port_.run(call);
  } catch (const PortFailure& failure) {
    if (failure.verdict == Verdict::not_supported) throw NotSupported(failure.what());
    if (failure.verdict == Verdict::hung || failure.verdict == Verdict::crashed)
      worst_ = worst_ == Verdict::hung ? worst_ : failure.verdict;
    throw;
  }
}

}  // namespace moeref
