// Damaged files crash HDF5 1.10 itself: its global heap and the older formats' trees trust what they read.
#pragma once

#include <functional>

namespace moeref {

/// True in the child in which survives() runs its work.
bool in_crash_probe();

/// Runs `work` in a child process, a copy of this one in all it does. False if the child crashed or took more than a
/// minute; true if it ended, by an exception too, or if there can be no child.
bool survives(const std::function<void()>& work);

}  // namespace moeref
