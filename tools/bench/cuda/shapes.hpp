// The benchmark's shapes: tokens, dim, inter_dim, experts, slots; bf16, swiglu.
#pragma once

namespace moeref::cuda::bench {

struct Shape {
  const char* name;
  int tokens, dim, inter_dim, experts, slots;
};
inline constexpr Shape kShapes[] = {{"mixtral", 8192, 4096, 14336, 8, 2},
                                    {"qwen3_30b", 16384, 2048, 768, 128, 8},
                                    {"dsv3", 8192, 7168, 2048, 256, 8},
                                    {"gpt_oss", 8192, 2880, 2880, 128, 4},
                                    {"olmoe", 16384, 2048, 1024, 64, 8}};

}  // namespace moeref::cuda::bench
