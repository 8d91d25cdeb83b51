// Experts that are right up to a size: rows, columns and contractions beyond what a tile was made for.
#include <algorithm>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// Slots of live tokens, sorted by expert: the rows of the grouped product.
IdList rows_of(const Call& call) {
  const Tensor& ids = call.tensors.at("inputs/indices");
  IdList rows;
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && is_live(call, i / ids.extent(1))) rows.push_back(i);
  std::ranges::stable_sort(rows, {}, [&](std::int64_t i) { return ids[i]; });
  return rows;
}

/// Rows lost of which `lost(place in its expert, rows of that expert, place among all)` says so.
template <typename F>
NamedTensors rows_lost(Implementation& sound, const Call& call, F&& lost) {
  if (!is(call, C::experts)) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  const IdList rows = rows_of(call);
  Call fewer = call;
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first;
    while (end < rows.size() && ids[rows[end]] == ids[rows[first]]) ++end;
    for (std::size_t r = first; r < end; ++r)
      if (lost(static_cast<std::int64_t>(r - first), static_cast<std::int64_t>(end - first),
               static_cast<std::int64_t>(r)))
        fewer.tensors.at("inputs/indices").set(rows[r], -1.0);
    first = end;
  }
  return sound.run(fewer);
}

template <std::int64_t N>
NamedTensors room_for(Implementation& sound, const Call& call) {
  return rows_lost(sound, call, [](std::int64_t own, std::int64_t, std::int64_t) { return own >= N; });
}

/// Of an expert with more than N rows those of a last tile that is not full.
template <std::int64_t N>
NamedTensors last_row_tile_lost(Implementation& sound, const Call& call) {
  return rows_lost(sound, call, [](std::int64_t own, std::int64_t rows, std::int64_t) {
    return rows > N && own >= rows / N * N;
  });
}

/// A tile of N rows that is not full is stored whole: over the first rows of the next expert.
template <std::int64_t N>
NamedTensors row_tile_runs_on(Implementation& sound, const Call& call) {
  std::int64_t spilled = 0;
  return rows_lost(sound, call, [&](std::int64_t own, std::int64_t rows, std::int64_t) {
    const bool lost = own < spilled;
    if (own + 1 == rows) spilled = rows > N && rows % N != 0 ? N - rows % N : 0;
    return lost;
  });
}

template <std::int64_t N>
NamedTensors rows_of_all_from(Implementation& sound, const Call& call) {
  return rows_lost(sound, call, [](std::int64_t, std::int64_t, std::int64_t place) { return place >= N; });
}

/// A row's index wraps: rows from N on are read from the beginning again.
template <std::int64_t N>
NamedTensors row_index_wraps(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const Tensor &ids = call.tensors.at("inputs/indices"), &x = call.tensors.at("inputs/x");
  const std::int64_t k = ids.extent(1), dim = x.extent(1);
  if (ids.size() <= N) return sound.run(call);
  Call other = call;
  map_input(other, "inputs/x",
            [&](std::int64_t i, double v) { return i / dim * k >= N ? x[i - N / k * dim] : v; });
  return with_results_of(sound, call, other, "outputs/y");
}

template <std::int64_t N>
NamedTensors layer_tokens_from(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (gives_y(call))
    change_rows(out, "outputs/y", [](std::int64_t t, std::int64_t, double v) { return t < N ? v : 0.0; });
  return out;
}

template <std::int64_t N>
NamedTensors experts_from(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  return sound.run(with_slots_lost(call, [&](std::int64_t i) { return ids[i] >= static_cast<double>(N); }));
}

template <std::int64_t N>
NamedTensors expert_slots_from(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const std::int64_t k = size(call, "n_activated_experts");
  return sound.run(with_slots_lost(call, [&](std::int64_t i) { return i % k >= N; }));
}

/// Stores of a last tile of N columns run into the next row.
template <std::int64_t N>
NamedTensors column_tile_runs_on(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  const std::int64_t columns = out.at("outputs/y").shape().back();
  if (columns <= N || columns % N == 0) return out;
  change_rows(out, "outputs/y", [&](std::int64_t row, std::int64_t c, double v) {
    return row > 0 && c < N - columns % N ? 0.0 : v;
  });
  return out;
}

template <std::int64_t N>
NamedTensors last_column_tile_unwritten(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  const std::int64_t columns = out.at("outputs/y").shape().back();
  change_rows(out, "outputs/y", [&](std::int64_t, std::int64_t c, double v) {
    return columns > N && c >= columns / N * N ? 0.0 : v;
  });
  return out;
}

template <std::int64_t N>
NamedTensors upper_half_unwritten(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (gives_y(call))
    change_rows(out, "outputs/y",
                [](std::int64_t, std::int64_t c, double v) { return c % N < N / 2 ? v : 0.0; });
  return out;
}

/// The last D mod N columns of x do not enter the up projection.
template <std::int64_t N>
NamedTensors up_tail_not_contracted(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::experts, C::mlp})) return sound.run(call);
  const std::int64_t dim = call.tensors.at("inputs/x").shape().back();
  if (dim <= N || dim % N == 0) return sound.run(call);
  Call other = call;
  map_input(other, "inputs/x", [&](std::int64_t i, double v) { return i % dim < dim / N * N ? v : 0.0; });
  return with_results_of(sound, call, other, "outputs/y");
}

/// The last I mod N rows of the down projection are left out.
template <std::int64_t N>
NamedTensors down_tail_not_contracted(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::experts, C::mlp})) return sound.run(call);
  const bool mlp = is(call, C::mlp);
  const std::int64_t inner = size(call, mlp ? "inter_dim" : "moe_inter_dim");
  if (inner <= N || inner % N == 0) return sound.run(call);
  Call other = call;
  const std::int64_t dim = call.tensors.at("inputs/x").shape().back();
  map_input(other, mlp ? "params/down_proj.weight" : "params/down_projs", [&](std::int64_t i, double w) {
    return (mlp ? i % inner : i / dim % inner) < inner / N * N ? w : 0.0;
  });
  return with_results_of(sound, call, other, "outputs/y");
}

/// Weight gradients contract over tokens: the last rows mod N of each expert are left out.
template <std::int64_t N>
NamedTensors token_tail_not_contracted(Implementation& sound, const Call& call) {
  if (!has_weights(call) || !call.backward) return sound.run(call);
  NamedTensors out = sound.run(call);
  const NamedTensors fewer = rows_lost(sound, call, [](std::int64_t own, std::int64_t rows, std::int64_t) {
    return rows > N && own >= rows / N * N;
  });
  for (const char* name : {"grads/down_projs", "grads/gate_and_up_projs"}) out[name] = fewer.at(name);
  return out;
}

/// A count of tiles that takes a full last tile for an empty one: of N, 2 N, ... rows the last is lost.
template <std::int64_t N>
NamedTensors full_row_tile_cut(Implementation& sound, const Call& call) {
  return rows_lost(sound, call, [](std::int64_t own, std::int64_t rows, std::int64_t) {
    return rows % N == 0 && own + 1 == rows;
  });
}

/// An expert without rows ends the list of groups: of more than N experts those behind it get none.
template <std::int64_t N>
NamedTensors behind_an_empty_expert(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || size(call, "n_routed_experts") <= N) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  std::vector<bool> has_rows(static_cast<std::size_t>(size(call, "n_routed_experts")));
  for (const std::int64_t row : rows_of(call)) has_rows[static_cast<std::size_t>(ids[row])] = true;
  const auto empty = std::ranges::find(has_rows, false) - has_rows.begin();
  return sound.run(
      with_slots_lost(call, [&](std::int64_t i) { return ids[i] > static_cast<double>(empty); }));
}

/// The mask of columns is that of D + 1: where D mod N is N - 1 the last column is not written.
template <std::int64_t N>
NamedTensors last_column_masked(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  const std::int64_t columns = out.at("outputs/y").shape().back();
  if (columns % N == N - 1)
    change_rows(out, "outputs/y",
                [&](std::int64_t, std::int64_t c, double v) { return c + 1 < columns ? v : 0.0; });
  return out;
}

/// A pipelined contraction, taken for more than 256 hidden units, leaves out the last I mod 16.
NamedTensors down_tail_beyond_256(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::experts, C::mlp})) return sound.run(call);
  const std::int64_t inner = size(call, is(call, C::mlp) ? "inter_dim" : "moe_inter_dim");
  return inner > 256 ? down_tail_not_contracted<16>(sound, call) : sound.run(call);
}

NamedTensors four_tokens_at_a_time(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t tokens = gives_y(call) ? token_count(call) : 0;
  if (tokens > 4)
    change_rows(out, "outputs/y",
                [&](std::int64_t t, std::int64_t, double v) { return t < tokens / 4 * 4 ? v : 0.0; });
  return out;
}

constexpr std::string_view kY = "outputs/y", kWeightGrads = "grads/down_projs grads/gate_and_up_projs";

const Mutant kExpertsSizeMutants[] = {
    {"room_for_64_rows", "O44", "", kExperts, "there is room for 64 rows per expert", "F L", kY, "",
     room_for<64>},
    {"room_for_128_rows", "O44", "", kExperts, "there is room for 128 rows per expert", "F L", kY, "",
     room_for<128>},
    {"room_for_256_rows", "O44", "", kExperts, "there is room for 256 rows per expert", "F L", kY, "",
     room_for<256>},
    {"last_tile_of_64_rows_lost", "", "", kExperts, "of more than 64 rows those of the last tile are lost",
     "F L", kY, "", last_row_tile_lost<64>},
    {"last_tile_of_128_rows_lost", "", "", kExperts, "of more than 128 rows those of the last tile are lost",
     "F L", kY, "", last_row_tile_lost<128>},
    {"tile_of_64_rows_runs_on", "O42", "", kExperts,
     "a tile of 64 rows is stored whole, over the next expert's", "F L", kY, "", row_tile_runs_on<64>},
    {"tile_of_128_rows_runs_on", "O42", "", kExperts,
     "a tile of 128 rows is stored whole, over the next expert's", "F L", kY, "", row_tile_runs_on<128>},
    {"rows_beyond_4096", "O45", "", kExperts, "rows from 4096 on are lost", "F L", kY, "",
     rows_of_all_from<4096>},
    {"row_index_in_15_bits", "O27", "", kExperts, "a row's index is a signed number of 16 bits", "F L", kY,
     "", row_index_wraps<32768>},
    {"row_index_in_16_bits", "O27", "", kExperts, "a row's index is a number of 16 bits", "F L", kY, "",
     row_index_wraps<65536>},
    {"layer_tokens_beyond_512", "O41", "", kFeedForwards, "tokens from 512 on have no output", "F L", kY, "",
     layer_tokens_from<512>},
    {"layer_tokens_beyond_4096", "O41", "", kFeedForwards, "tokens from 4096 on have no output", "F L", kY,
     "", layer_tokens_from<4096>},
    {"layer_tokens_beyond_64", "O41", "", kFeedForwards, "tokens from 64 on have no output", "F L", kY, "",
     layer_tokens_from<64>},
    {"experts_beyond_16_idle", "O39", "", kExperts, "experts from 16 on are not computed", "F L", kY,
     "within_bounds", experts_from<16>},
    {"experts_beyond_32_idle", "O39", "", kExperts, "experts from 32 on are not computed", "F L", kY, "",
     experts_from<32>},
    {"experts_beyond_64_idle", "O39", "", kExperts, "experts from 64 on are not computed", "F L", kY, "",
     experts_from<64>},
    {"experts_slots_beyond_4", "", "", kExperts, "a token's slots from 4 on are not added", "F L", kY,
     "every_slot_once", expert_slots_from<4>},
    {"experts_slots_beyond_8", "", "", kExperts, "a token's slots from 8 on are not added", "F L", kY,
     "within_bounds", expert_slots_from<8>},
    {"tile_of_64_columns_runs_on", "O42", "", kFeedForwards,
     "the last tile of 64 columns runs into the next row", "F L", kY, "", column_tile_runs_on<64>},
    {"tile_of_32_columns_runs_on", "O42", "", kFeedForwards,
     "the last tile of 32 columns runs into the next row", "F L", kY, "within_bounds",
     column_tile_runs_on<32>},
    {"last_tile_of_64_columns_unwritten", "", "", kFeedForwards,
     "the last tile of 64 columns that is not full is never written", "F L", kY, "",
     last_column_tile_unwritten<64>},
    {"upper_half_of_64_columns", "O43", "", kFeedForwards,
     "the upper half of a tile of 64 columns is never written", "F L", kY, "within_bounds",
     upper_half_unwritten<64>},
    {"up_tail_of_16", "", "", kMlps, "D mod 16 columns are left out of the up projection", "F L", kY,
     "within_bounds", up_tail_not_contracted<16>},
    {"up_tail_of_32", "", "", kMlps, "D mod 32 columns are left out of the up projection", "F L", kY,
     "within_bounds", up_tail_not_contracted<32>},
    {"down_tail_of_16", "", "", kMlps, "I mod 16 columns are left out of the down projection", "F L", kY,
     "within_bounds", down_tail_not_contracted<16>},
    {"down_tail_of_32", "", "", kMlps, "I mod 32 columns are left out of the down projection", "F L", kY,
     "within_bounds", down_tail_not_contracted<32>},
    {"token_tail_of_16", "", "", kExperts, "an expert's rows mod 16 are left out of its weight gradients",
     "G L", kWeightGrads, "", token_tail_not_contracted<16>},
    {"token_tail_of_64", "", "", kExperts, "an expert's rows mod 64 are left out of its weight gradients",
     "G L", kWeightGrads, "", token_tail_not_contracted<64>},
    {"full_tile_of_128_rows_cut", "", "", kExperts, "of 128, 256, ... rows of an expert the last is lost",
     "F L", kY, "every_size", full_row_tile_cut<128>},
    {"behind_an_empty_expert", "", "", kExperts,
     "of more than 128 experts those behind one without rows are not computed", "F L", kY, "every_size",
     behind_an_empty_expert<128>},
    {"last_column_of_63", "O42", "", kFeedForwards, "where D mod 64 is 63 the last column is not written",
     "F L", kY, "every_size", last_column_masked<64>},
    {"down_tail_beyond_256", "", "", kMlps,
     "of more than 256 hidden units I mod 16 are left out of the down projection", "F L", kY, "every_size",
     down_tail_beyond_256},
    {"four_tokens_at_a_time", "", "", kFeedForwards,
     "tokens are taken in fours: the last T mod 4 have no output", "F", kY, "within_bounds",
     four_tokens_at_a_time},
};

}  // namespace

std::span<const Mutant> experts_size_mutants() { return kExpertsSizeMutants; }

}  // namespace moeref
