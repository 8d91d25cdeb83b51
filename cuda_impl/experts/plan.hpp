// What the forward and backward passes share: argument checks, shapes and the layout of `saved` and of the
// workspaces.
#pragma once

#include "grouped_gemm/grouped_gemm.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

void check_config(const ExpertsConfig& config);
/// Throws unless the current device has compute capability 9.0.
void check_device();
void check_aligned(const void* p, const char* name);

PermutationShape permutation_shape(const ExpertsConfig& config);
inline std::int64_t rows_of(const ExpertsConfig& config) { return config.tokens * config.slots; }
GroupedShape grouped_shape(const ExpertsConfig& config, const Permutation& permutation);

/// Takes arrays one after another from one block of memory, each at a multiple of 256 bytes; without memory
/// it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(std::size_t count) {
    char* at = memory_ ? memory_ + used_ : nullptr;
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  char* memory_;
  std::size_t used_ = 0;
};

struct Saved {
  __nv_bfloat16* h;
  void* permutation;
  Saved(Arena& arena, const ExpertsConfig& config);
};
struct ForwardWorkspace {
  void* sort;
  __nv_bfloat16 *a, *rows;
  void* permutation;  // used when nothing is saved
  ForwardWorkspace(Arena& arena, const ExpertsConfig& config);
};
struct BackwardWorkspace {
  __nv_bfloat16 *dh, *a, *rows;
  float* dot_parts;
  BackwardWorkspace(Arena& arena, const ExpertsConfig& config);
};

}  // namespace moeref::cuda
