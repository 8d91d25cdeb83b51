// Loops over independent pieces on all cores. Which thread computes a piece never changes its value.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace moeref {

/// Calls body(i) once for every i in [0, count), on up to thread_count() threads; returns when all are done.
/// A loop inside a loop runs on its caller's thread. The first exception of a body is thrown again here.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

/// 0 = as many as the machine has cores (the default; also by the environment variable MOEREF_THREADS).
void set_thread_count(int threads);
int thread_count();

/// Asks for the memory's pages on all threads (and for large ones); changes nothing else. Where gigabytes are
/// filled next, the kernel's clearing of pages is otherwise done by one thread alone.
void populate(void* memory, std::size_t bytes);

/// vector.resize(size) of an empty vector.
template <class T>
void resize_in_parallel(std::vector<T>& vector, std::size_t size) {
  vector.reserve(size);
  populate(vector.data(), size * sizeof(T));
  vector.resize(size);
}

}  // namespace moeref
