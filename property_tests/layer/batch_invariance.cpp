// Batch and position invariance at the sizes where kernels change their tiles: a token's bits do not depend
// on how many tokens there are, on its place among them, or on who the others are.
#include "property_tests/layer/batch_invariance.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// What a call gives per token.
constexpr std::array<std::string_view, 7> kRows{"outputs/indices", "outputs/weights", "stages/logits",
                                                "stages/scores",   "outputs/y",       "grads/x",
                                                "grads/weights"};

/// b - 1, b and b + 1 tokens for a b of 8 to 1024 that the seed chooses, small ones more often.
void batch_sizes(Implementation& impl, const Descriptor& d) {
  const Call call = d.T <= 9 ? full_call(impl, d) : make_call(d);
  const std::int64_t only[] = {0};
  const Answer alone(impl, with_tokens(call, only));
  const std::uint64_t pick = d.seed % 36;  // 8, 7, ..., 1 chances of 36
  std::int64_t b = 8;
  for (std::uint64_t left = pick, step = 8; left >= step && step > 1; left -= step, --step) b *= 2;
  for (std::int64_t size = b - 1; size <= b + 1; ++size) {
    const auto shift = static_cast<std::int64_t>(d.seed % 7) + size;
    for (const std::int64_t first : {0, 1}) {
      const std::vector<std::int64_t> order = crowd(size, first, d.T, shift);
      const Answer batch(impl, with_tokens(call, order));
      if (const auto other = row_difference(alone.results(), batch.results(), order))
        fail({other->tensor, other->index, other->value, other->alone, 0.0,
              "the token at place " + std::to_string(other->place) + " of " + std::to_string(size) +
                  " has other bits than alone"});
    }
  }
}

/// One rank, no auxiliary loss, no token that differs from itself by its place.
void arrange_batch(Descriptor& d) {
  d.batch = 1;
  d.noise = 0.0;
  d.fake_gate = false;
  d.aux = 0.0;
  d.ranks = 1;
  d.spread = Spread::even;
  d.mask = Mask::absent;
  d.poison = NonFinite::none;
  d.T = std::clamp<std::int64_t>(d.T, 2, 37);
  if (d.values == Values::exact) d.values = Values::rough;
}

const Property kBatchInvarianceProperties[] = {
    {"P27",
     "batch_sizes",
     {Component::gate, Component::experts, Component::mlp, Component::moe},
     PropertyClass::exact,
     "a token has the same bits alone and at every place of batches of b - 1, b and b + 1 tokens, b = 8 to "
     "1024",
     {"split sums", "coupled scales", "tile by batch size"},
     arrange_batch,
     batch_sizes,
     Passes::either,
     Needs::batch_invariant},
};

}  // namespace

std::vector<std::int64_t> crowd(std::int64_t size, std::int64_t first, std::int64_t tokens,
                                std::int64_t shift) {
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < size; ++i)
    order.push_back(i % 2 == first || tokens == 1 ? 0 : 1 + (i / 2 + shift) % (tokens - 1));
  return order;
}

std::optional<RowDifference> row_difference(const NamedTensors& alone, const NamedTensors& batch,
                                            std::span<const std::int64_t> order) {
  for (const std::string_view rows : kRows) {
    const Tensor *one = find(alone, rows), *all = find(batch, rows);
    if (!one || !all || all->size() != one->size() * static_cast<std::int64_t>(order.size())) continue;
    for (std::size_t t = 0; t < order.size(); ++t)
      for (std::int64_t i = 0; order[t] == 0 && i < one->size(); ++i) {
        const std::int64_t at = static_cast<std::int64_t>(t) * one->size() + i;
        const double value = (*all)[at], expected = (*one)[i];
        if (value == expected || (std::isnan(value) && std::isnan(expected))) continue;
        return RowDifference{std::string(rows), static_cast<std::int64_t>(t), at, value, expected};
      }
  }
  return std::nullopt;
}

std::span<const Property> batch_invariance_properties() { return kBatchInvarianceProperties; }

}  // namespace moeref
