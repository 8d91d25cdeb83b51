// What the CUDA port's table has as bench().
#pragma once

#include "moeref/port.h"

namespace moeref::cuda {

/// Null where nothing is worth timing: on the emulated device.
decltype(moeref_port::bench) benchmark();

}  // namespace moeref::cuda
