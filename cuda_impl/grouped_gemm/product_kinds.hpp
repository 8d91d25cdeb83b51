// The one table of how grouped products are computed: what each way can serve and what it is preferred for.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "cuda_impl/grouped_gemm/few_rows/products.hpp"
#include "cuda_impl/grouped_gemm/planes/products.hpp"
#include "cuda_impl/grouped_gemm/portable/products.hpp"
#include "cuda_impl/grouped_gemm/sm90/products.hpp"
#include "cuda_impl/quantization/format_facts.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

/// What the choice is made from.
struct ProductDemand {
  int major, minor;  // compute capability
  DataType dtype;
  int dim, inter_dim;
  std::int64_t rows = std::int64_t{1} << 31;  // of all experts together: tokens times slots
  int experts = 1;
  WeightFormat format = WeightFormat::none;  // of the caller's weights
  Activation activation = Activation::swiglu;
  bool weighs_input = false;    // X has to lie by row, times the routing weights
  bool quantises_rows = false;  // products of codes by codes, which portable's in float32 stand for
  Accumulator accumulator = Accumulator::float32;  // the least for those
};

constexpr bool serves_wgmma(const ProductDemand& d) {
  return d.major == 9 && d.minor == 0 && d.dtype == DataType::bfloat16 && d.dim % 8 == 0 &&
         d.inter_dim % 8 == 0 && is_documented(d.activation) && !d.quantises_rows;
}
constexpr bool serves_planes(const ProductDemand& d) {
  return d.major == 9 && d.minor == 0 && d.dtype == DataType::float32;
}
/// Rows of codes are whole 16 bytes, which TMA wants, and gate and up begin in halves of blocks of scales.
constexpr bool serves_e4m3(const ProductDemand& d) {
  return d.major == 9 && d.minor == 0 && d.dtype == DataType::bfloat16 && d.dim % 16 == 0 &&
         d.inter_dim % 64 == 0 && is_documented(d.activation) && d.quantises_rows &&
         d.accumulator == Accumulator::e8m13_promoted128;
}
constexpr bool serves_portable(const ProductDemand& d) { return d.major >= 8; }

/// A lane reads 16 bytes along a row of weights: of columns, or of codes along K. Codes become bfloat16.
constexpr bool serves_few_rows(const ProductDemand& d) {
  if (d.major < 8 || d.dtype == DataType::float32 || !is_documented(d.activation) || d.weighs_input ||
      d.quantises_rows)
    return false;
  const bool codes = d.format != WeightFormat::none;
  const int step = codes ? 128 / facts(d.format).bits() : 8;
  return d.dim % step == 0 && d.inter_dim % step == 0 && (!codes || d.dtype == DataType::bfloat16);
}
/// Clusters halve what each block loads of an expert's weights. That pays where these are large: 8 Mi
/// elements and up gained 4 to 9 points of the dense rate (mixtral, dsv3, gpt_oss), 2 Mi and below lost 6 to
/// 19 (qwen3_30b, olmoe), whose weights stay in L2 and whose short loops wait for the neighbour
/// (tools/bench/results/2026-11-23-h200.md).
constexpr bool large_experts(const ProductDemand& d) {
  return std::int64_t{d.dim} * d.inter_dim >= std::int64_t{4} << 20;
}
/// Runs of 32 codes along K.
constexpr bool has_whole_runs(const ProductDemand& d) {
  return d.format != WeightFormat::none && d.dim % 32 == 0 && d.inter_dim % 32 == 0 && !d.weighs_input;
}
/// By rows that an expert has on average. Numbers: up to 2 where experts are large gained 3 to 17 % over
/// tiles on an H200 and lost beyond; small ones up to a row for every second expert, whose passes are one
/// launch, gained 10 to 19 % and nothing beyond (tools/bench/results/2026-11-30-h200-decode.md). Codes: at 8
/// gained 13 to 28 % over tiles of codes where experts are large, at 12 lost 7 to 32; where there are no such
/// tiles, gained over numbers first up to 48 (tools/bench/results/2026-11-30-h200-codes.md).
constexpr bool has_few_rows(const ProductDemand& d) {
  if (d.format != WeightFormat::none)
    return d.rows <= std::int64_t{d.experts} * (serves_wgmma(d) && has_whole_runs(d) ? 8 : 48);
  return d.rows * 2 <= d.experts || (large_experts(d) && d.rows <= std::int64_t{d.experts} * 2);
}
/// Warpgroups that take turns load more for each flop than those that share a tile, 26 KiB for 128 x 160 x 64
/// and 52 or 36 for twice as many, which pays where tiles are nearly full: 1024 and 2048 rows an expert
/// gained 2 to 5 points of the dense rate, 256 (two tiles of 128) lost up to 2; between them is interpolated
/// (tools/bench/results/2026-11-29-h200-turns.md).
constexpr bool has_full_tiles(const ProductDemand& d) { return d.rows >= std::int64_t{d.experts} * 640; }
/// Warps that turn codes into numbers beside the products spare the pass that writes all of them, and do it
/// anew for each tile: up to 512 rows an expert that took 0.23 to 1 of the time, at 1024 7 to 19 % longer
/// where experts are small and 5 % less where they are large (tools/bench/results/2026-11-30-h200-codes.md).
constexpr bool prefers_turns(const ProductDemand& d) {
  return has_whole_runs(d) ? d.rows <= std::int64_t{d.experts} * 512 : has_full_tiles(d);
}
/// The tensor cores round six sums for each 16 of K, below 2^-23 each: over a short K that may be more than a
/// sum in order does.
constexpr bool long_sums(const ProductDemand& d) { return d.dim >= 32 && d.inter_dim >= 32; }
constexpr bool any_experts(const ProductDemand&) { return true; }
constexpr bool never(const ProductDemand&) { return false; }
/// A copy beside the up product costs it L2 and power, which pays where the copy is long beside the product:
/// both together took 5 % less at an inner width of 768, 2 % less at 2048, as long at 2880, and 2 % longer at
/// 14336 (tools/bench/results/2026-11-29-h200-gather.md).
constexpr bool narrow_experts(const ProductDemand& d) { return d.inter_dim <= 2048; }
/// The warps that would copy turn codes into numbers.
constexpr bool narrow_experts_of_numbers(const ProductDemand& d) {
  return narrow_experts(d) && d.format == WeightFormat::none;
}

struct ProductKind {
  ExpertsPath path;
  const char* word;  // on command lines and in reports
  const char* name;
  bool (*serves)(const ProductDemand&);
  bool (*preferred)(const ProductDemand&);
  /// Forward reads each token where it is, or else X has to lie by row; and its blocks draw no tickets.
  bool streams_weights;
  /// Forward reads codes, or else weights of a quantised format become numbers first.
  bool (*reads_codes)(const ProductDemand&);
  /// Whether the up product brings X to its rows itself; else a copy comes before.
  bool (*gathers)(const ProductDemand&);
  int tile_rows;    // most rows of a row tile of the token products
  int dot_columns;  // inner columns behind one part of the router gradient's dot product
  const GroupedProducts *float32, *bfloat16, *float16;  // null for a type that `serves` refuses
};

/// `automatic` is the first that serves and is preferred.
inline constexpr ProductKind kProductKinds[] = {
    {ExpertsPath::few_rows, "few_rows", "few rows, 128 x 32", serves_few_rows, has_few_rows, true,
     any_experts, never, 128, 128, nullptr, &few_rows::kBfloat16Products, &few_rows::kFloat16Products},
    {ExpertsPath::wgmma_turns, "wgmma_turns", "wgmma, 128 x 160 by turns, clusters of 2", serves_wgmma,
     prefers_turns, false, has_whole_runs, narrow_experts_of_numbers, 160, 128, nullptr, &sm90::kTurnProducts,
     nullptr},
    {ExpertsPath::wgmma_clusters, "wgmma_clusters", "wgmma, 256 x 160, clusters of 2", serves_wgmma,
     large_experts, false, never, narrow_experts, 320, 128, nullptr, &sm90::kClusterProducts, nullptr},
    {ExpertsPath::wgmma, "wgmma", "wgmma, 256 x 160", serves_wgmma, any_experts, false, never, narrow_experts,
     160, 128, nullptr, &sm90::kOneBlockProducts, nullptr},
    {ExpertsPath::wgmma_planes, "wgmma_planes", "wgmma on three bfloat16 planes, 256 x 128", serves_planes,
     long_sums, false, never, never, 256, 128, &planes::kProducts, nullptr, nullptr},
    {ExpertsPath::wgmma_e4m3, "wgmma_e4m3", "wgmma of e4m3, 256 x 128, clusters of 2", serves_e4m3,
     any_experts, false, any_experts, never, 256, 128, nullptr, &sm90::kCodeProducts, nullptr},
    {ExpertsPath::portable, "portable", "portable, 128 x 128", serves_portable, any_experts, false, never,
     never, 128, 128, &portable::kFloat32Products, &portable::kBfloat16Products, &portable::kFloat16Products},
};

/// The path asked for, or the one that `automatic` stands for; `automatic` where none serves.
constexpr ExpertsPath choose_path(const ProductDemand& demand, ExpertsPath wanted) {
  for (const ProductKind& kind : kProductKinds)
    if (kind.serves(demand) &&
        (wanted == ExpertsPath::automatic ? kind.preferred(demand) : kind.path == wanted))
      return kind.path;
  return ExpertsPath::automatic;
}

/// The row of a path that choose_path() gave; `automatic` has none.
constexpr const ProductKind& product_kind(ExpertsPath path) {
  for (const ProductKind& kind : kProductKinds)
    if (kind.path == path) return kind;
  throw std::logic_error("no products have been chosen");
}

constexpr bool is_wgmma(ExpertsPath path) {
  if (path == ExpertsPath::automatic) return false;
  const auto serves = product_kind(path).serves;
  return serves == serves_wgmma || serves == serves_planes || serves == serves_e4m3;
}

/// How command lines and reports call a path.
constexpr const char* word_of(ExpertsPath path) {
  return path == ExpertsPath::automatic ? "automatic" : product_kind(path).word;
}

}  // namespace moeref::cuda
