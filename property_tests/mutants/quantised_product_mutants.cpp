// Ports whose products take rows that are quantised wrongly, or not at all.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"

namespace moeref {
namespace {

using Format = ActivationFormatFacts;
using Quantised = std::vector<double>;

/// The sound results with rows that become `rows` of them; calls of numbers are as they were.
template <Quantised (*Rows)(const Format&, const PlainRows&, std::int64_t)>
NamedTensors with_rows(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {Component::experts}) || !parse_moe_config(call.config).quantises_activations())
    return sound.run(call);
  ExpertsParts parts;
  parts.quantised = Rows;
  return with_parts(sound, call, parts);
}

double element_of(const PlainRows& rows, std::int64_t row, std::int64_t k) {
  return rows.values[static_cast<std::size_t>(row * rows.width + k)];
}

double nearest_code(double quotient) { return plain_code(quotient); }

/// A row by scales and codes of one's own: scale(group) for the code, stored(group) for the number.
template <typename Scale, typename Stored, typename Code>
Quantised restored_row(const PlainRows& rows, std::int64_t row, std::int64_t group, Scale&& scale,
                       Stored&& stored, Code&& code) {
  Quantised out;
  for (std::int64_t k = 0; k < rows.width; ++k)
    out.push_back(code(static_cast<float>(element_of(rows, row, k)) / static_cast<float>(scale(k / group))) *
                  stored(k / group));
  return out;
}
template <typename Scale>
Quantised restored_row(const PlainRows& rows, std::int64_t row, std::int64_t group, Scale&& scale) {
  return restored_row(rows, row, group, scale, scale, nearest_code);
}

double scale_or_one(ScaleRule rule, double m) { return m == 0.0 ? 1.0 : plain_scale(rule, m); }

/// The scales of a row's own groups.
auto own_scales(const Format& f, const PlainRows& rows, std::int64_t row) {
  return [&f, &rows, row](std::int64_t group) {
    return scale_or_one(f.scale, rows.largest(row, group, f.group));
  };
}

Quantised tokens_left_alone(const Format& f, const PlainRows& rows, std::int64_t row) {
  return rows.hidden ? plain_quantised(f, rows, row) : rows.row(row);
}

Quantised hidden_left_alone(const Format& f, const PlainRows& rows, std::int64_t row) {
  return rows.hidden ? rows.row(row) : plain_quantised(f, rows, row);
}

Quantised next_groups_scale(const Format& f, const PlainRows& rows, std::int64_t row) {
  const auto own = own_scales(f, rows, row);
  const std::int64_t last = rows.groups(f.group) - 1;
  return restored_row(
      rows, row, f.group, own, [&](std::int64_t group) { return own(std::min(group + 1, last)); },
      nearest_code);
}

Quantised one_scale_per_token(const Format& f, const PlainRows& rows, std::int64_t row) {
  return restored_row(rows, row, rows.width,
                      [&](std::int64_t) { return scale_or_one(f.scale, rows.largest(row, 0, rows.width)); });
}

Quantised one_scale_per_tensor(const Format& f, const PlainRows& rows, std::int64_t row) {
  double m = 0.0;
  for (const double value : rows.values) m = std::max(m, std::abs(value));
  return restored_row(rows, row, rows.width, [&](std::int64_t) { return scale_or_one(f.scale, m); });
}

/// Stored [tokens, groups], read as [groups, tokens].
Quantised scales_transposed_by_token(const Format& f, const PlainRows& rows, std::int64_t row) {
  const std::int64_t groups = rows.groups(f.group);
  return restored_row(
      rows, row, f.group, own_scales(f, rows, row),
      [&](std::int64_t group) {
        const std::int64_t at = group * rows.count() + row;
        return scale_or_one(f.scale, rows.largest(at / groups, at % groups, f.group));
      },
      nearest_code);
}

Quantised rounded_toward_zero(const Format& f, const PlainRows& rows, std::int64_t row) {
  const auto own = own_scales(f, rows, row);
  return restored_row(rows, row, f.group, own, own,
                      [](double quotient) { return plain_code(quotient, std::floor); });
}

Quantised ties_away_from_zero(const Format& f, const PlainRows& rows, std::int64_t row) {
  const auto own = own_scales(f, rows, row);
  return restored_row(rows, row, f.group, own, own,
                      [](double quotient) { return plain_code(quotient, std::round); });
}

/// A conversion that does not saturate has NaN past the last number but one half step.
Quantised nan_past_448(const Format& f, const PlainRows& rows, std::int64_t row) {
  const auto own = own_scales(f, rows, row);
  return restored_row(rows, row, f.group, own, own, [](double quotient) {
    return std::abs(quotient) > 464.0 ? std::numeric_limits<double>::quiet_NaN() : plain_code(quotient);
  });
}

Quantised other_power_of_two(const Format& f, const PlainRows& rows, std::int64_t row) {
  if (f.scale == ScaleRule::quotient) return plain_quantised(f, rows, row);
  Format other = f;
  other.scale = f.scale == ScaleRule::power_below ? ScaleRule::power_above : ScaleRule::power_below;
  return plain_quantised(other, rows, row);
}

/// 240 is the largest number of e4m3 with the bias 8 and without infinities.
Quantised scaled_for_240(const Format& f, const PlainRows& rows, std::int64_t row) {
  if (f.scale != ScaleRule::quotient) return plain_quantised(f, rows, row);
  return restored_row(rows, row, f.group, [&](std::int64_t group) {
    const double m = rows.largest(row, group, f.group);
    return m == 0.0 ? 1.0 : m / 240.0;
  });
}

/// Quotients below the first normal number become 0.
Quantised subnormal_codes_lost(const Format& f, const PlainRows& rows, std::int64_t row) {
  const auto own = own_scales(f, rows, row);
  return restored_row(rows, row, f.group, own, own, [](double quotient) {
    return std::abs(quotient) < 0x1p-6 ? 0.0 : plain_code(quotient);
  });
}

constexpr std::string_view kWrong = "stages/up_projection stages/down_projection outputs/y grads/*";

}  // namespace

std::span<const Mutant> quantised_product_mutants() {
  const auto row = [](std::string_view name, std::string_view does,
                      NamedTensors (*run)(Implementation&, const Call&)) {
    return Mutant{.name = name,
                  .components = {Component::experts},
                  .does = does,
                  .first_wrong = kWrong,
                  .property = "quantised_rows",
                  .run = run};
  };
  static const std::vector<Mutant> kRows{
      row("activations_left_alone", "tokens are multiplied as numbers where their codes should be",
          with_rows<tokens_left_alone>),
      row("hidden_activations_left_alone",
          "hidden rows are multiplied as numbers where their codes should be", with_rows<hidden_left_alone>),
      row("activation_scale_of_next_group", "a group's codes are multiplied by the scale of the next group",
          with_rows<next_groups_scale>),
      row("activation_scale_per_token", "all groups of a token have one scale",
          with_rows<one_scale_per_token>),
      row("activation_scale_per_tensor", "all tokens have one scale", with_rows<one_scale_per_tensor>),
      row("activation_scales_transposed", "scales by token and group are read by group and token",
          with_rows<scales_transposed_by_token>),
      row("activation_codes_truncated", "codes of activations are rounded toward zero",
          with_rows<rounded_toward_zero>),
      row("activation_ties_away_from_zero",
          "codes between two are rounded away from zero, not to the even one",
          with_rows<ties_away_from_zero>),
      row("activation_saturation_missing", "a quotient past 448 becomes NaN", with_rows<nan_past_448>),
      row("activation_scale_other_power", "scales that are powers of two are rounded the other way",
          with_rows<other_power_of_two>),
      row("activation_scale_for_240", "scales are made for the largest number 240",
          with_rows<scaled_for_240>),
      row("activation_subnormals_lost", "codes below 2^-6 become 0", with_rows<subnormal_codes_lost>),
  };
  return kRows;
}

}  // namespace moeref
