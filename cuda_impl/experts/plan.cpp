#include "experts/plan.hpp"

#include <string>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

void want(bool right, const char* field, std::int64_t value, const char* wanted) {
  if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
}

}  // namespace

void check_config(const ExpertsConfig& c) {
  want(c.tokens >= 0, "tokens", c.tokens, "0 or more");
  want(c.dim > 0 && c.dim % 8 == 0, "dim", c.dim, "a positive multiple of 8 (16 bytes of bfloat16)");
  want(c.inter_dim > 0 && c.inter_dim % 8 == 0, "inter_dim", c.inter_dim,
       "a positive multiple of 8 (16 bytes of bfloat16)");
  want(c.experts >= 1 && c.experts <= 1024, "experts", c.experts, "1 to 1024");
  want(c.slots >= 1, "slots", c.slots, "1 or more");
  want(c.tokens < (std::int64_t{1} << 31) / c.slots - 4096, "tokens", c.tokens, "tokens * slots under 2^31");
}

void check_device() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  if (major != 9 || minor != 0)
    throw CudaError("the device has compute capability " + std::to_string(major) + "." +
                    std::to_string(minor) + ": the grouped products need 9.0");
}

void check_aligned(const void* p, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0)
    throw ArgumentError(std::string(name) + " is not aligned to 16 bytes");
}

PermutationShape permutation_shape(const ExpertsConfig& c) {
  return {c.tokens, c.slots, c.experts, kTileConfigs[0].tile_rows};
}

GroupedShape grouped_shape(const ExpertsConfig& c, const Permutation& permutation) {
  return {permutation, rows_of(c), c.dim, c.inter_dim, c.experts, permutation_shape(c).tile_rows};
}

Saved::Saved(Arena& arena, const ExpertsConfig& c)
    : h(arena.take<__nv_bfloat16>(rows_of(c) * c.up_width())),
      permutation(arena.take<char>(permutation_bytes(permutation_shape(c)))) {}

ForwardWorkspace::ForwardWorkspace(Arena& arena, const ExpertsConfig& c)
    : sort(arena.take<char>(sort_workspace_bytes(permutation_shape(c)))),
      a(arena.take<__nv_bfloat16>(rows_of(c) * c.inter_dim)),
      rows(arena.take<__nv_bfloat16>(rows_of(c) * c.dim)),
      permutation(arena.take<char>(permutation_bytes(permutation_shape(c)))) {}

BackwardWorkspace::BackwardWorkspace(Arena& arena, const ExpertsConfig& c)
    : dh(arena.take<__nv_bfloat16>(rows_of(c) * c.up_width())),
      a(arena.take<__nv_bfloat16>(rows_of(c) * c.inter_dim)),
      rows(arena.take<__nv_bfloat16>(rows_of(c) * c.dim)),
      dot_parts(arena.take<float>(rows_of(c) * ((c.inter_dim + 127) / 128))) {}

template <class Layout>
static std::size_t bytes(const ExpertsConfig& config) {
  check_config(config);
  Arena arena(nullptr);
  Layout layout(arena, config);
  return arena.used();
}

std::size_t saved_bytes(const ExpertsConfig& config) { return bytes<Saved>(config); }
std::size_t forward_workspace_bytes(const ExpertsConfig& config) { return bytes<ForwardWorkspace>(config); }
std::size_t backward_workspace_bytes(const ExpertsConfig& config) { return bytes<BackwardWorkspace>(config); }

}  // namespace moeref::cuda
