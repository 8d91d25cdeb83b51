// The products for experts of few rows: forward, 16-bit types, weights as numbers or as codes. Gradients are
// the portable path's, which wants numbers.
#pragma once

#include "cuda_impl/grouped_gemm/product_table.hpp"

namespace moeref::cuda::few_rows {

/// Each compiled in a file of its own.
extern const GroupedProducts kBfloat16Products, kFloat16Products;

/// Products of codes with bfloat16 rows.
struct CodeProducts {
  void (*up)(const GroupedShape&, const UpProduct&, Activation, const ActivationParameters&, cudaStream_t);
  void (*down)(const GroupedShape&, const StoredProduct&, cudaStream_t);
  void (*whole_pass)(const GroupedShape&, const WholePass&, Activation, const ActivationParameters&,
                     cudaStream_t);
};
/// Of a format that has codes; each compiled in float_codes.cu or group_codes.cu.
template <WeightFormat kFormat>
const CodeProducts& products_of_codes();

/// Of a block's tile; of gated activations half of them are gates.
constexpr int kTileColumns = 128;
int up_tiles(const GroupedShape& shape, Activation activation);

/// What a pass of one launch may have: tokens, and rows of all experts together.
constexpr int kPassTokens = 8, kPassRows = 256;
/// Its counters.
constexpr std::int64_t progress_count(int dim) {
  return 1 + kPassRows + (dim + kTileColumns - 1) / kTileColumns;
}
/// How many blocks a multiprocessor has in it, 0 where products of their own are faster.
int blocks_of_pass(const GroupedShape& shape, Activation activation);

/// Throws ArgumentError for a format without codes.
const CodeProducts& code_products(WeightFormat format);

}  // namespace moeref::cuda::few_rows
