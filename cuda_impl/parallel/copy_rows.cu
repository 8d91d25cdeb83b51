// Few blocks, which go to one peer after the other, each rank beginning with its next: what is multiplied
// beside them keeps the other multiprocessors. Eight words a thread in flight, 1 MiB in all, cover what a
// link carries in a microsecond. Floor: the bytes of the rows over one direction of the links.
#include "cuda_impl/parallel/copy_rows.hpp"

#include <algorithm>

#include "cuda_impl/memory/words.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 512, kInFlight = 8, kMostBlocks = 16;

template <class Word>
__global__ void __launch_bounds__(kThreads) copy_used(const RowCopies c, int words) {
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads * kInFlight;
  for (int i = 1; i < c.ranks; ++i) {
    const int p = (c.rank + i) % c.ranks;
    if (c.to.of[p] == nullptr) continue;
    const std::int64_t count = min(std::int64_t{c.used[p]} - c.first, c.rows) * words;
    const std::int64_t from_row = c.first + (c.laid != nullptr ? c.laid[p] : 0),
                       to_row = c.first + (c.home != nullptr ? c.home[p] : 0);
    const Word* from = static_cast<const Word*>(c.from.of[p]) + from_row * words;
    Word* to = static_cast<Word*>(c.to.of[p]) + to_row * words;
    for (std::int64_t at = std::int64_t{blockIdx.x} * kThreads * kInFlight + threadIdx.x; at < count;
         at += step) {
      Word word[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (at + j * kThreads < count) word[j] = from[at + j * kThreads];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (at + j * kThreads < count) to[at + j * kThreads] = word[j];
    }
  }
}

}  // namespace

void copy_rows(const RowCopies& c, cudaStream_t stream) {
  if (c.rows == 0) return;
  with_word(c.row_bytes, [&]<class Word>(int words) {
    const std::int64_t each = kThreads * kInFlight, wanted = (c.rows * words + each - 1) / each;
    copy_used<Word>
        <<<static_cast<unsigned>(std::min<std::int64_t>(wanted, kMostBlocks)), kThreads, 0, stream>>>(c,
                                                                                                      words);
  });
  check(cudaGetLastError(), "copy_rows");
}

}  // namespace moeref::cuda
