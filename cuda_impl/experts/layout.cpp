#include "cuda_impl/experts/layout.hpp"

#include <algorithm>
#include <string>

#include "cuda_impl/quantization/quantize_rows.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

void want(bool right, const char* field, std::int64_t value, const char* wanted) {
  if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
}

std::int64_t expected_rows_of(const ExpertsConfig& c) {
  return c.expected_rows > 0 ? c.expected_rows : slots_of(c);
}

ProductDemand demand_of(const ExpertsConfig& c, int major = 0) {
  return {major,        0,
          c.dtype,      c.dim,
          c.inter_dim,  expected_rows_of(c),
          c.experts,    c.weight_format,
          c.activation, c.router_weight_on_input,
          quantises(c), c.accumulator};
}

}  // namespace

void check_config(const ExpertsConfig& c) {
  want(c.tokens >= 0, "tokens", c.tokens, "0 or more");
  want(c.dim > 0, "dim", c.dim, "1 or more");
  want(c.inter_dim > 0 && c.inter_dim < 1 << 30, "inter_dim", c.inter_dim, "1 to 2^30 - 1");
  want(c.experts >= 1 && c.experts <= 1024, "experts", c.experts, "1 to 1024");
  want(c.identity_experts >= 0, "identity_experts", c.identity_experts, "0 or more");
  want(c.slots >= 1, "slots", c.slots, "1 or more");
  want(c.tokens < (std::int64_t{1} << 31) / c.slots - 4096, "tokens", c.tokens, "tokens * slots under 2^31");
  want(c.max_rows >= 0 && c.max_rows <= slots_of(c), "max_rows", c.max_rows, "0 to tokens * slots");
  want(c.expected_rows >= 0, "expected_rows", c.expected_rows, "0 or more");
  check_matrix_type(c.dtype, "dtype");
  if (quantises(c)) {
    const int whole = cuts_groups(c.activation_format) ? 1 : group_columns(c.activation_format);
    want(c.weight_format != WeightFormat::none, "activation_format",
         static_cast<std::int64_t>(c.activation_format), "0 (none) without a weight_format");
    want(c.dim % whole == 0, "dim", c.dim, "whole groups of the activation_format");
    want(c.inter_dim % whole == 0, "inter_dim", c.inter_dim, "whole groups of the activation_format");
  }
  want(c.accumulator == Accumulator::float32 ||
           (c.weight_format == WeightFormat::fp8_e4m3_block128 && group_columns(c.activation_format) == 128),
       "accumulator", static_cast<std::int64_t>(c.accumulator),
       "0 (float32) but for e4m3 with a scale per 128 columns on both sides");
  if (c.path == ExpertsPath::few_rows && !serves_few_rows(demand_of(c, 8)))
    throw ArgumentError(
        "path is few_rows: want 16-bit numbers and widths that are multiples of 8, or bfloat16 and codes of "
        "whole 16 bytes; a documented activation; and no router_weight_on_input");
  want(!c.router_weight_on_input || !c.apply_router_weight_after_down, "router_weight_on_input",
       c.router_weight_on_input, "0 with apply_router_weight_after_down");
  if (c.path == ExpertsPath::wgmma_e4m3) {
    if (!serves_e4m3(demand_of(c, 9)))
      throw ArgumentError(
          "path is wgmma_e4m3: want bfloat16, the accumulator e8m13_promoted128, dim a multiple of 16, "
          "moe_inter_dim of 64, and a documented activation");
  } else if (c.path == ExpertsPath::wgmma_planes) {
    if (c.dtype != DataType::float32)
      throw ArgumentError("path is wgmma_planes: want float32, which it takes apart");
  } else if (is_wgmma(c.path)) {
    want(c.dim % 8 == 0, "dim", c.dim, "a multiple of 8 (16 bytes of bfloat16) for wgmma");
    want(c.inter_dim % 8 == 0, "inter_dim", c.inter_dim, "a multiple of 8 (16 bytes of bfloat16) for wgmma");
    if (c.dtype != DataType::bfloat16) throw ArgumentError("dtype is float32: want bfloat16 for wgmma");
  }
}

bool reads_codes(const ExpertsConfig& c, ExpertsPath path) {
  return c.weight_format != WeightFormat::none && product_kind(path).reads_codes(demand_of(c));
}

namespace {

/// Whether forward reads codes wherever it runs: on every device that has a path.
bool always_reads_codes(const ExpertsConfig& c) {
  bool always = true;
  for (const int major : {8, 9}) {
    const ExpertsPath path = choose_path(demand_of(c, major), c.path);
    always = always && (path == ExpertsPath::automatic || reads_codes(c, path));
  }
  return always;
}

}  // namespace

ExpertsPath selected_path(const ExpertsConfig& c) {
  check_config(c);
  ProductDemand demand = demand_of(c);
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&demand.major, cudaDevAttrComputeCapabilityMajor, device),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&demand.minor, cudaDevAttrComputeCapabilityMinor, device),
        "cudaDeviceGetAttribute");
  const ExpertsPath path = choose_path(demand, c.path);
  if (path != ExpertsPath::automatic) return path;
  throw CudaError("the device has compute capability " + std::to_string(demand.major) + "." +
                  std::to_string(demand.minor) + ": the grouped products need " +
                  (c.path == ExpertsPath::automatic || c.path == ExpertsPath::portable ? "8.0 or newer"
                                                                                       : "9.0 for wgmma"));
}

void check_no_limit(const ExpertsConfig& c) {
  want(c.max_rows == 0, "max_rows", c.max_rows, "0 on one device");
}

void check_aligned(const void* p, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0)
    throw ArgumentError(std::string(name) + " is not aligned to 16 bytes");
}

PermutationShape permutation_shape(const ExpertsConfig& c, ExpertsPath path, const TokenChunks& chunks) {
  return {c.tokens, c.slots, c.experts, product_kind(path).tile_rows, chunks, rows_of(c)};
}

GroupedShape grouped_shape(const ExpertsConfig& c, ExpertsPath path, const Permutation& permutation,
                           int* tickets, int chunk) {
  return {permutation,
          rows_of(c),
          expected_rows_of(c),
          c.dim,
          c.inter_dim,
          c.experts,
          product_kind(path).tile_rows,
          c.dtype,
          path,
          tickets,
          nullptr,
          chunk};
}

void clear_tickets(int* tickets, cudaStream_t stream) {
  check(cudaMemsetAsync(tickets, 0, sizeof(int), stream), "cudaMemsetAsync");
}

bool gathers(const ExpertsConfig& c, ExpertsPath path) {
  return !c.router_weight_on_input && product_kind(path).gathers(demand_of(c));
}

GroupedShape gathering(GroupedShape g, int* arrivals) {
  g.arrivals = arrivals + g.chunk * (1 + g.permutation.most_tiles);
  return g;
}

std::size_t arrivals_bytes(const PermutationShape& s) {
  return static_cast<std::size_t>(s.chunks.count) * (1 + static_cast<std::size_t>(most_tiles(s))) *
         sizeof(int);
}

static std::size_t matrix(const ExpertsConfig& c, std::int64_t width) {
  return static_cast<std::size_t>(rows_of(c)) * static_cast<std::size_t>(width) * bytes_of(c.dtype);
}

// The bytes of the permutation and of arrivals do not depend on the tiles.
Saved::Saved(Arena& arena, const ExpertsConfig& c, const TokenChunks& chunks)
    : h(arena.take_bytes(matrix(c, c.up_width()))),
      permutation(arena.take_bytes(permutation_bytes(permutation_shape(c, ExpertsPath::portable, chunks)))),
      o(arena.take_bytes(quantises(c) && c.apply_router_weight_after_down ? matrix(c, c.dim) : 0)) {}

Numbers::Numbers(Arena& arena, const ExpertsConfig& c, DataType t, bool wanted) : type(t) {
  if (!wanted || c.weight_format == WeightFormat::none) return;
  const std::size_t of_width = static_cast<std::size_t>(c.experts) * c.dim * bytes_of(type);
  gate_and_up = arena.take_bytes(of_width * c.up_width());
  down = arena.take_bytes(of_width * c.inter_dim);
}

void Numbers::make(const ExpertsConfig& c, const ExpertsWeights& w, cudaStream_t stream) const {
  if (!gate_and_up) return;
  dequantize({c.weight_format, w.gate_and_up, w.gate_and_up_scales, c.experts, c.dim, c.up_width()}, type,
             gate_and_up, stream);
  dequantize({c.weight_format, w.down, w.down_scales, c.experts, c.inter_dim, c.dim}, type, down, stream);
}

ExpertsWeights Numbers::instead_of(const ExpertsWeights& w) const {
  return gate_and_up ? ExpertsWeights{gate_and_up, down, w.gate_and_up_bias, w.down_bias} : w;
}

namespace {

std::size_t operand_bytes(const ExpertsConfig& c, const TokenChunks& chunks) {
  if (!quantises(c)) return 0;
  const int width = std::max(c.dim, c.inter_dim);
  return std::max(static_cast<std::size_t>(rows_of(c)) * width * sizeof(float),
                  coded_bytes(rows_of(c), width, std::int64_t{c.experts} * chunks.count));
}

}  // namespace

ForwardWorkspace::ForwardWorkspace(Arena& arena, const ExpertsConfig& c, const TokenChunks& chunks)
    : sort(arena.take_bytes(sort_workspace_bytes(permutation_shape(c, ExpertsPath::portable, chunks)))),
      a(arena.take_bytes(matrix(c, c.inter_dim))),
      rows(arena.take_bytes(matrix(c, c.dim))),
      permutation(arena.take_bytes(permutation_bytes(permutation_shape(c, ExpertsPath::portable, chunks)))),
      tickets(arena.take<int>(1)),
      arrivals(static_cast<int*>(
          arena.take_bytes(arrivals_bytes(permutation_shape(c, ExpertsPath::portable, chunks))))),
      progress(arena.take<int>(few_rows::progress_count(c.dim))),
      numbers(arena, c, quantises(c) ? DataType::float32 : c.dtype, !always_reads_codes(c)),
      operand(static_cast<float*>(arena.take_bytes(operand_bytes(c, chunks)))),
      sums(arena.take<float>(quantises(c) ? rows_of(c) * std::max(c.up_width(), c.dim) : 0)) {}

BackwardWorkspace::BackwardWorkspace(Arena& arena, const ExpertsConfig& c, RowsOfX x)
    : dh(arena.take_bytes(matrix(c, c.up_width()))),
      a(arena.take_bytes(matrix(c, c.inter_dim))),
      rows(arena.take_bytes(matrix(c, c.dim))),
      x_rows(x == RowsOfX::apart ? arena.take_bytes(matrix(c, c.dim)) : rows),
      dot_parts(arena.take<float>(rows_of(c) * dot_parts_of(c, ExpertsPath::portable))),
      tickets(arena.take<int>(1)),
      numbers(arena, c, c.dtype, true) {}

std::size_t saved_bytes(const ExpertsConfig& config) {
  check_config(config);
  return bytes_taken<Saved>(config, one_chunk(config));
}
std::size_t forward_workspace_bytes(const ExpertsConfig& config) {
  check_config(config);
  return bytes_taken<ForwardWorkspace>(config, one_chunk(config));
}
std::size_t backward_workspace_bytes(const ExpertsConfig& config) {
  check_config(config);
  return bytes_taken<BackwardWorkspace>(config, RowsOfX::with_dy);
}

}  // namespace moeref::cuda
