#include "cuda_impl/grouped_gemm/few_rows/products.hpp"

#include "cuda_impl/memory/multiprocessors.hpp"
#include "cuda_impl/quantization/with_code_format.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::few_rows {
namespace {

/// By tiles of the up product. Up to one a multiprocessor: blocks of twice the loads, one a multiprocessor,
/// so that no two crowd on one of them: 75 MB of numbers took 32.6 us, and 40.4 with two blocks. Beyond two a
/// multiprocessor: two blocks gained up to 16 % with numbers, and 4 to 16 % with codes. Between, tiles of
/// numbers wait for the second round, 89 us for 86 at qwen3_235b; codes gained 5 to 9 %
/// (tools/bench/results/2026-11-30-h200-decode.md).
constexpr int blocks_for(std::int64_t tiles, int multiprocessors, bool codes) {
  if (tiles <= multiprocessors) return 1;
  return codes || tiles > 2 * std::int64_t{multiprocessors} ? 2 : 0;
}

}  // namespace

int up_tiles(const GroupedShape& g, Activation activation) {
  const int inner = is_gated(activation) ? kTileColumns / 2 : kTileColumns;
  return (g.inter_dim + inner - 1) / inner;
}

int blocks_of_pass(const GroupedShape& g, Activation activation) {
  return blocks_for(g.rows * up_tiles(g, activation), multiprocessors(), g.format != WeightFormat::none);
}

const CodeProducts& code_products(WeightFormat format) {
  const CodeProducts* const products =
      with_code_format(format, []<WeightFormat kFormat>() { return &products_of_codes<kFormat>(); });
  if (products == nullptr) throw ArgumentError("weight_format is none: want one with codes");
  return *products;
}

}  // namespace moeref::cuda::few_rows
