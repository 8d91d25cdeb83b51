// Rows as words that one instruction moves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace moeref::cuda {

/// Calls f.template operator()<Word>(words) for rows of `bytes` bytes: words of 16 bytes where the row has no
/// other, else of 2. Rows of slots follow each other from a 256-byte boundary on.
template <class F>
void with_word(std::size_t bytes, const F& f) {
  if (bytes % 16 == 0)
    f.template operator()<uint4>(static_cast<int>(bytes / 16));
  else
    f.template operator()<unsigned short>(static_cast<int>(bytes / 2));
}

}  // namespace moeref::cuda
