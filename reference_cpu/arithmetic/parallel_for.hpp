// Loops over independent pieces on all cores. Which thread computes a piece never changes its value.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace moeref {

/// Calls body(i) once for every i in [0, count), on up to thread_count() threads; returns when all are done.
/// A loop inside a loop runs on its caller's thread. The first exception that a body throws is thrown again.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& body);

/// Calls body(first, size) for pieces of [0, count) that have `piece` elements, the last one what is left.
void parallel_pieces(std::int64_t count, std::int64_t piece,
                     const std::function<void(std::int64_t first, std::int64_t size)>& body);

/// The smallest index that find(first, size) gives for any of these pieces; nothing where it gives none.
std::optional<std::int64_t> parallel_first(
    std::int64_t count, std::int64_t piece,
    const std::function<std::optional<std::int64_t>(std::int64_t first, std::int64_t size)>& find);

/// 0 = one thread per core of the machine, the default. The environment variable MOEREF_THREADS sets it, too.
void set_thread_count(int threads);
int thread_count();

/// Touches the pages of this memory on all threads and asks for large ones; changes nothing else. Otherwise
/// the thread that first writes to gigabytes of it waits alone while the kernel clears the pages.
void populate(void* memory, std::size_t bytes);

/// vector.resize(size) of an empty vector, whose pages are touched likewise.
template <class T>
void resize_in_parallel(std::vector<T>& vector, std::size_t size) {
  vector.reserve(size);
  populate(vector.data(), size * sizeof(T));
  vector.resize(size);
}

}  // namespace moeref
