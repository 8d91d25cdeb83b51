// Host side of the sm_90a kernels.
#pragma once

#include <type_traits>

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/epilogue_fragments.cuh"
#include "cuda_impl/grouped_gemm/sm90/tensor_map.hpp"
#include "cuda_impl/grouped_gemm/sm90/token_product.cuh"
#include "cuda_impl/memory/multiprocessors.hpp"
#include "cuda_impl/quantization/quantize_rows.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::sm90 {

using bf16 = __nv_bfloat16;

template <auto Kernel, class Layout, class... Arguments>
void launch(const char* name, cudaStream_t stream, const Arguments&... arguments) {
  check(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout::total), name);
  const unsigned blocks = multiprocessors() / Layout::cluster * Layout::cluster;
  launch_overlapped<Kernel>(name, {blocks, Layout::threads, Layout::total, stream, Layout::cluster},
                            arguments...);
}

template <class Weights, class Epilogue, int Strips, int Cluster>
using TokenLayout = typename Weights::template Layout<Epilogue, Strips, Cluster>;

/// For M of `m_extent` columns, as the epilogue counts them.
template <class Layout, class Epilogue>
TokenProductShape token_shape(const GroupedShape& g, int k_extent, int m_extent) {
  const int units = (strips_of<Epilogue>(m_extent) + kUnitStrips<Layout> - 1) / kUnitStrips<Layout>;
  return {row_tiles(g), k_extent, g.experts, g.tile_rows, units, {g.tickets}, {}};
}
/// weights [E, K, M]: box of 64 columns of M.
inline CUtensorMap weights_mn_major(const void* w, int experts, int k, int m) {
  return tensor_map(static_cast<const bf16*>(w), experts, k, m, 64, 64);
}
/// weights [E, M, K]: box of 128 rows of M.
inline CUtensorMap weights_k_major(const void* w, int experts, int m, int k) {
  return tensor_map(static_cast<const bf16*>(w), experts, m, k, 128, 64);
}
/// Codes [E, M, K]: box of 64 rows of M.
inline CodeSource code_source(const GroupedShape& g, const void* codes, const WeightScales& scales, int k,
                              int m) {
  const FormatFacts f = facts(g.format);
  const std::int64_t count =
      std::int64_t{g.experts} * ((m + f.block_n - 1) / f.block_n) * ((k + f.block_k - 1) / f.block_k);
  return {tensor_map(static_cast<const std::uint8_t*>(codes), g.experts, m, std::int64_t{k} * f.bits() / 8,
                     64, 64),
          g.format,
          static_cast<const char*>(scales.blocks),
          static_cast<const char*>(scales.blocks) + count * f.scale_bytes(),
          scales.experts,
          k,
          m};
}
/// Operand A, M outputs by K, as `Weights` and the epilogue have it.
template <class Weights, class Epilogue, class Product>
typename Weights::Source weights_of(const GroupedShape& g, const Product& p, int k, int m) {
  if constexpr (std::is_same_v<Weights, E4m3Operands>)
    return {tensor_map(static_cast<const std::uint8_t*>(p.weights), g.experts, m, k,
                       Epilogue::paired_columns ? 64 : kStrip, kCodeBlockK),
            static_cast<const float*>(p.scales.blocks), m};
  else if constexpr (Weights::converted)
    return code_source(g, p.weights, p.scales, k, m);
  else
    return Weights::mn_major ? weights_mn_major(p.weights, g.experts, k, m)
                             : weights_k_major(p.weights, g.experts, m, k);
}

/// rows [R, width]: box of 32 rows.
inline CUtensorMap token_rows(const GroupedShape& g, const void* rows, int width) {
  return tensor_map(static_cast<const bf16*>(rows), 1, g.rows, width, kTokenBox, 64);
}

/// The same of codes with their scales where `Weights` wants these.
template <class Weights>
typename Weights::Tokens tokens_of(const GroupedShape& g, const void* rows, const float* scales, int width) {
  if constexpr (std::is_same_v<Weights, E4m3Operands>)
    return {tensor_map(static_cast<const std::uint8_t*>(rows), 1, g.rows, width, kTokenBox, kCodeBlockK),
            tensor_map(scales, blocks_of<Weights>(width),
                       scale_pitch(g.rows, std::int64_t{g.experts} * g.permutation.chunks), kTokenBox),
            g.chunk};
  else
    return token_rows(g, rows, width);
}

template <class Weights, class Act, int Strips, int Cluster>
void launch_up_of(const GroupedShape& g, const UpProduct& u, const ActivationParameters& parameters,
                  cudaStream_t stream) {
  using Epilogue =
      std::conditional_t<Act::layout == UpLayout::halves, FragmentForward<Act>, ActivationForward<Act>>;
  using Layout = TokenLayout<Weights, Epilogue, Strips, Cluster>;
  const int width = Act::layout == UpLayout::up_only ? g.inter_dim : 2 * g.inter_dim;
  const typename Epilogue::Arguments e{static_cast<bf16*>(u.h),
                                       static_cast<bf16*>(u.a),
                                       static_cast<const bf16*>(u.bias),
                                       u.weighted ? g.permutation.row_weight : nullptr,
                                       g.inter_dim,
                                       parameters};
  const int m_extent = Act::layout == UpLayout::interleaved ? width : g.inter_dim;
  TokenProductShape shape = token_shape<Layout, Epilogue>(g, g.dim, m_extent);
  shape.copy = {static_cast<const uint4*>(u.tokens),
                static_cast<uint4*>(u.rows),
                g.permutation.row_token,
                g.dim / 8,
                g.arrivals,
                g.arrivals + 1};
  launch<token_product<Layout, Weights, Epilogue>, Layout>(
      "up_product", stream, weights_of<Weights, Epilogue>(g, u, g.dim, width),
      tokens_of<Weights>(g, u.rows, u.row_scales, g.dim), shape, e);
}

/// Codes only by turns (product_kinds.hpp).
template <class Act, int Strips, int Cluster>
void launch_up(const GroupedShape& g, const UpProduct& u, const ActivationParameters& parameters,
               cudaStream_t stream) {
  if constexpr (Strips == 1)
    if (g.format != WeightFormat::none)
      return launch_up_of<CodedWeights, Act, Strips, Cluster>(g, u, parameters, stream);
  launch_up_of<WeightsByTma<true>, Act, Strips, Cluster>(g, u, parameters, stream);
}

template <class Act, int Strips, int Cluster>
void launch_down_gradient(const GroupedShape& g, const DownGradient& d,
                          const ActivationParameters& parameters, cudaStream_t stream) {
  using Epilogue = ActivationBackward<Act>;
  using Weights = WeightsByTma<false>;
  using Layout = TokenLayout<Weights, Epilogue, Strips, Cluster>;
  const typename Epilogue::Arguments e{static_cast<const bf16*>(d.h),
                                       static_cast<bf16*>(d.dh),
                                       static_cast<bf16*>(d.a),
                                       g.permutation.row_weight,
                                       d.dot_parts,
                                       g.inter_dim,
                                       parameters};
  launch<token_product<Layout, Weights, Epilogue>, Layout>(
      "down_gradient_product", stream, weights_of<Weights, Epilogue>(g, d, g.dim, g.inter_dim),
      token_rows(g, d.dy, g.dim), token_shape<Layout, Epilogue>(g, g.dim, g.inter_dim), e);
}

}  // namespace moeref::cuda::sm90
