// Loops over independent pieces on all cores. Which thread computes a piece never changes its value.
#pragma once

#include <cstdint>
#include <functional>

namespace moeref {

/// Calls body(i) once for every i in [0, count), on up to thread_count() threads; returns when all are done. A loop
/// inside a loop runs on its caller's thread. The first exception of a body is thrown again here.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

/// 0 = as many as the machine has cores (the default; also by the environment variable MOEREF_THREADS).
void set_thread_count(int threads);
int thread_count();

}  // namespace moeref
