// Ports that add up products of codes otherwise than the config's accumulator does.
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"

namespace moeref {
namespace {

using Terms = std::span<const double>;

/// A sum in an accumulator of few bits, 32 products at a time.
double truncated_sum(Terms row, Terms column, int bits) {
  double sum = 0.0;
  for (std::size_t first = 0; first < row.size(); first += 32) {
    const std::size_t end = std::min(first + 32, row.size());
    int largest = sum == 0.0 ? std::numeric_limits<int>::min() : std::ilogb(sum);
    for (std::size_t k = first; k < end; ++k)
      if (row[k] != 0.0 && column[k] != 0.0)
        largest = std::max(largest, std::ilogb(row[k]) + std::ilogb(column[k]));
    if (largest == std::numeric_limits<int>::min()) continue;
    const auto cut = [bits](double number, int power) {
      const double unit = std::ldexp(1.0, power - bits);
      return std::trunc(number / unit) * unit;
    };
    double total = cut(sum, largest);
    for (std::size_t k = first; k < end; ++k) total += cut(row[k] * column[k], largest);
    sum = total == 0.0 ? 0.0 : cut(total, std::ilogb(total));
  }
  return sum;
}

double promoted_sum(Terms row, Terms column, int bits) {
  double total = 0.0;
  for (std::size_t first = 0; first < row.size(); first += 128) {
    const std::size_t count = std::min<std::size_t>(128, row.size() - first);
    total += truncated_sum(row.subspan(first, count), column.subspan(first, count), bits);
  }
  return total;
}

double of_tensor_cores(Terms row, Terms column) { return promoted_sum(row, column, 13); }
double of_ten_bits(Terms row, Terms column) { return promoted_sum(row, column, 10); }
double never_promoted(Terms row, Terms column) { return truncated_sum(row, column, 13); }

/// The accumulator goes on from what has gone to float32 already.
double not_cleared(Terms row, Terms column) {
  double total = 0.0;
  for (std::size_t end = 128; end < row.size() + 128; end += 128)
    total += truncated_sum(row.first(std::min(end, row.size())), column.first(std::min(end, row.size())), 13);
  return total;
}

/// Whether the call's products of codes are added up in this accumulator.
bool adds_up_in(const Call& call, Accumulator accumulator) {
  if (!is_one_of(call, {Component::experts})) return false;
  const MoEConfig c = parse_moe_config(call.config);
  return c.quantises_activations() && c.accumulator == accumulator;
}

/// The sound results with sums that become `Dot` of them, in calls of one accumulator.
template <Accumulator Of, double (*Dot)(Terms, Terms)>
NamedTensors with_sums(Implementation& sound, const Call& call) {
  if (!adds_up_in(call, Of)) return sound.run(call);
  ExpertsParts parts;
  parts.dot = Dot;
  return with_parts(sound, call, parts);
}

NamedTensors scale_of_next_block(Implementation& sound, const Call& call) {
  if (!adds_up_in(call, Accumulator::e8m13_promoted128)) return sound.run(call);
  Call other = call;
  for (const char* name : {"params/gate_and_up_projs_scales", "params/down_projs_scales"}) {
    const Tensor& own = call.tensors.at(name);
    const std::int64_t blocks = own.extent(2);
    for (std::int64_t i = 0; i < own.size(); ++i)
      other.tensors.at(name).set(i, own[i % blocks + 1 < blocks ? i + 1 : i]);
  }
  return sound.run(other);
}

constexpr Accumulator kPromoted = Accumulator::e8m13_promoted128;

}  // namespace

std::span<const Mutant> accumulator_mutants() {
  const auto row = [](std::string_view name, std::string_view does,
                      NamedTensors (*run)(Implementation&, const Call&)) {
    return Mutant{.name = name,
                  .components = {Component::experts},
                  .does = does,
                  .first_wrong = "stages/up_projection stages/down_projection outputs/y grads/*",
                  .property = "promoted_sums",
                  .run = run};
  };
  static const std::vector<Mutant> kRows{
      row("tensor_core_sums_undeclared", "sums of FP8 tensor cores where the config says float32",
          with_sums<Accumulator::float32, of_tensor_cores>),
      row("tensor_core_sums_never_promoted", "one sum over all columns in the tensor cores' accumulator",
          with_sums<kPromoted, never_promoted>),
      row("tensor_core_sums_of_10_bits",
          "the accumulator keeps 10 bits below the largest power in place of 13",
          with_sums<kPromoted, of_ten_bits>),
      row("tensor_core_sums_not_cleared", "the accumulator is not cleared after its sum has gone to float32",
          with_sums<kPromoted, not_cleared>),
      row("promotion_with_scale_of_next_block",
          "a partial sum is multiplied by the weights' scale of the next 128 columns", scale_of_next_block),
  };
  return kRows;
}

}  // namespace moeref
