#include "reference_cpu/verdict/own_selection.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <span>

#include "reference_cpu/components/gate.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"

namespace moeref {
namespace {

/// One reading of a shown stage.
struct Reading {
  Bounded stage;
  bool exact = false;  ///< these are the numbers that the choice was made from
};

/// `held` is the type in which the documented system holds the stage [T, E].
std::vector<Reading> readings(const Tensor& shown, std::int64_t experts, DType held) {
  const std::vector<double> values = shown.doubles();
  const bool fits =
      std::ranges::all_of(values, [&](double v) { return std::isnan(v) || round_to(held, v) == v; });
  const auto stage = [&](DType type, const std::function<double(double)>& value) {
    Bounded out(shown.size() / experts, experts, type);
    std::ranges::transform(values, out.value.begin(), value);
    return out;
  };
  std::vector<Reading> out;
  const DType shown_in = fits ? held : shown.dtype();
  out.push_back({stage(shown_in, [](double v) { return v; }), true});
  if (!fits) out.push_back({stage(held, [&](double v) { return round_to(held, v); }), true});
  // Half a unit in the last place of the type that the numbers were rounded to.
  const DType rounded = fits && unit_roundoff(held) >= unit_roundoff(shown.dtype()) ? held : shown.dtype();
  Reading finer{stage(shown_in, [](double v) { return v; }), false};
  const Precision p = precision(rounded);
  for (std::size_t i = 0; i < values.size(); ++i)
    finer.stage.error[i] = values[i] == 0.0 ? p.tiny : p.unit * std::abs(values[i]) / (1.0 - p.unit);
  out.push_back(std::move(finer));
  return out;
}

/// All tokens under one reading; `wrong` is set where one does not follow.
OwnSelection judge_reading(const RoutingScores& routing, bool exact, const Tensor& ids, bool lowest_id_first,
                           std::string_view whose) {
  OwnSelection out{true, std::vector<bool>(static_cast<std::size_t>(routing.tokens)), -1, ""};
  const auto all = ids.as<std::int64_t>();
  for (std::int64_t t = 0; t < routing.tokens; ++t) {
    const auto chosen =
        all.subspan(static_cast<std::size_t>(t * routing.k), static_cast<std::size_t>(routing.k));
    SelectionVerdict v = judge_selection(routing, t, chosen, whose);
    const bool ruled = exact && lowest_id_first && !has_nan(routing, t);
    if (v.selection == Selection::tied && ruled) {
      v.selection = Selection::wrong;
      v.finding = "equal scores at the cut of its own, and not the lowest ids";
    }
    if (v.selection >= Selection::wrong) {
      out.wrong = t;
      out.finding = "token " + std::to_string(t) + ": " + v.finding;
      return out;
    }
    out.proven[static_cast<std::size_t>(t)] =
        v.certified || (exact && settled_but_for_ties(routing, t, chosen));
  }
  return out;
}

using Reader = std::function<std::optional<RoutingScores>(const Bounded&)>;

/// The first reading that explains every token; the last one's finding where none does. `direct`: equal
/// numbers in the stage are equal in the choice.
std::optional<OwnSelection> judge_stage(const Tensor* shown, const RoutingScores& routing, DType held,
                                        const Reader& reader, bool direct, const Tensor& ids,
                                        bool lowest_id_first, std::string_view whose) {
  if (!shown || shown->shape() != Shape{routing.tokens, routing.experts} || !is_floating(shown->dtype()))
    return std::nullopt;
  std::optional<OwnSelection> out;
  for (const Reading& reading : readings(*shown, routing.experts, held)) {
    const std::optional<RoutingScores> own = reader(reading.stage);
    if (!own) return std::nullopt;
    out = judge_reading(*own, direct && reading.exact, ids, lowest_id_first, whose);
    if (out->wrong < 0) break;
  }
  return out;
}

}  // namespace

OwnSelection judge_own_selection(const Call& call, const NamedTensors& candidate,
                                 const RoutingScores& routing, const Tensor& ids,
                                 const JudgeOptions& options) {
  const bool layer = call.component == Component::moe;
  if ((!layer && call.component != Component::gate) || routing.indices != "outputs/indices") return {};
  const MoEConfig config = parse_moe_config(call.config);
  const CallOptions call_options = parse_call_options(call.options);
  const auto correction = load_correction(config, call.tensors, layer ? "params/gate." : "params/");
  const DType x = require(call.tensors, "inputs/x").dtype();
  const auto by_logits = [&](const Bounded& logits) {
    return std::optional(routing_of_logits(config, call_options, correction, logits));
  };
  const auto by_scores = [&](const Bounded& scores) { return routing_of_scores(config, correction, scores); };
  const auto from_logits =
      judge_stage(find(candidate, "stages/logits"), routing, gate_compute_type(call_options, x), by_logits,
                  true, ids, options.lowest_id_first, "its own logits lead to");
  if (from_logits && from_logits->wrong >= 0) return *from_logits;
  const bool normalised = config.normalises_scores();
  const bool direct = !facts(config.score_func).selects_by_logits && !normalised;
  const auto from_scores =
      judge_stage(find(candidate, "stages/scores"), routing, scores_type(config, call_options, x), by_scores,
                  direct, ids, options.lowest_id_first, "its own scores lead to");
  if (!from_logits) return from_scores.value_or(OwnSelection{});
  // Scores that were made for the auxiliary loss alone may differ from those of the choice, which logits
  // explain: they prove, and accuse of nothing.
  OwnSelection out = *from_logits;
  for (std::size_t t = 0; from_scores && from_scores->wrong < 0 && t < out.proven.size(); ++t)
    out.proven[t] = out.proven[t] || from_scores->proven[t];
  return out;
}

}  // namespace moeref
