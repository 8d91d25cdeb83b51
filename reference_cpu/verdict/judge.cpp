// judge(): the routing first, then everything else on that routing.
#include <algorithm>
#include <cmath>

#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"

namespace moeref {
namespace {

TensorVerdict fail(const std::string& tensor, std::string finding) {
  TensorVerdict out;
  out.tensor = tensor;
  out.verdict = Verdict::fail;
  out.ratio = INFINITY;
  out.finding = std::move(finding);
  return out;
}

/// |value - reference| / bound; where the reference is not finite, the value must not be either. Without a
/// bound an honest implementation may hold anything.
double ratio(double value, double reference, double bound) {
  if (std::isfinite(reference) && std::isinf(bound)) return 0.0;
  if (std::isfinite(reference) != std::isfinite(value)) return INFINITY;
  if (!std::isfinite(reference))
    return std::isnan(reference) || std::isnan(value) || value == reference ? 0.0 : INFINITY;
  const double difference = std::abs(value - reference);
  if (difference == 0.0) return 0.0;
  return bound > 0.0 ? difference / bound : INFINITY;
}

TensorVerdict compare(const std::string& tensor, const Tensor& candidate, const BoundedTensor& reference) {
  if (candidate.shape() != reference.shape)
    return fail(tensor, "has shape " + to_string(candidate.shape()) + " where " + to_string(reference.shape) +
                            " belongs");
  if (is_floating(reference.dtype) && !is_floating(candidate.dtype()))
    return fail(tensor,
                "has dtype " + std::string(name(candidate.dtype())) + " where a floating one belongs");
  TensorVerdict out;
  out.tensor = tensor;
  out.elements = candidate.size();
  for (std::int64_t i = 0; i < candidate.size(); ++i) {
    const auto n = static_cast<std::size_t>(i);
    const double value = candidate[i];
    const double r = ratio(value, reference.value[n], reference.bound[n]);
    out.unbounded += std::isinf(reference.bound[n]) && std::isfinite(reference.value[n]);
    if (out.index < 0 || r > out.ratio) {
      out.index = i;
      out.ratio = r;
      out.value = value;
      out.reference = reference.value[n];
      out.bound = reference.bound[n];
    }
  }
  if (out.unbounded > 0) {
    out.verdict = Verdict::ambiguous;
    out.finding = std::to_string(out.unbounded) + " of " + std::to_string(out.elements) +
                  " elements have no finite bound: nothing is proven there";
  }
  if (out.ratio > 1.0) {
    out.verdict = Verdict::fail;
    out.finding = std::isfinite(out.value) == std::isfinite(out.reference) ? "outside the bound"
                  : std::isfinite(out.reference) ? "not finite where the reference is"
                                                 : "finite where the reference is not";
  }
  return out;
}

/// Each tensor once more, on the stages before it as the candidate shows them: bounds are narrower there, and
/// what only follows from an earlier stage is told apart.
void judge_on_own_stages(const Call& call, const NamedTensors& candidate, const NamedTensors& routing,
                         CaseVerdict& total) {
  const bool shown =
      std::ranges::any_of(candidate, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  if (!shown) return;
  const Evaluation forced = evaluate(call, routing, candidate);
  for (TensorVerdict& free : total.tensors) {
    const auto it = forced.results.find(free.tensor);
    // Not gradients: a port may make a stage anew in its backward pass, from what it kept, and that differs
    // from the one shown.
    const bool gradient = free.tensor.starts_with("grads/");
    if (gradient || it == forced.results.end() || free.verdict > Verdict::fail || free.elements == 0)
      continue;
    TensorVerdict own = compare(free.tensor, candidate.at(free.tensor), it->second);
    if (own.verdict == Verdict::fail && free.verdict != Verdict::fail) {
      own.finding += " on the port's own earlier stages";
      own.own_ratio = own.ratio;
      free = std::move(own);
      continue;
    }
    free.own_ratio = own.ratio;
    if (free.verdict == Verdict::fail && own.ratio <= 1.0)
      free.finding += "; right on the port's own earlier stages";
  }
}

/// Whether anything can be computed on these ids: distinct experts of the right shape.
bool usable(const RoutingScores& routing, const Tensor& ids) {
  if (ids.shape() != Shape{routing.tokens, routing.k} || ids.dtype() != DType::int64) return false;
  const auto all = ids.as<std::int64_t>();
  for (std::int64_t t = 0; t < routing.tokens; ++t)
    for (std::int64_t j = 0; j < routing.k; ++j) {
      const auto first = all.begin() + t * routing.k, at = first + j;
      if (*at < 0 || *at >= routing.experts || std::find(first, at, *at) != at) return false;
    }
  return true;
}

/// NaN has no place in an order, so no tie rule speaks of it.
bool has_nan(const RoutingScores& routing, std::int64_t token) {
  const auto row = routing.score.begin() + token * routing.experts;
  return std::any_of(row, row + routing.experts, [](double score) { return std::isnan(score); });
}

/// The verdict on all ids of one routing decision; counts go to `total`.
TensorVerdict judge_ids(const RoutingScores& routing, const Tensor& ids, const JudgeOptions& options,
                        CaseVerdict& total) {
  const Shape want{routing.tokens, routing.k};
  if (ids.shape() != want)
    return fail(routing.indices,
                "has shape " + to_string(ids.shape()) + " where " + to_string(want) + " belongs");
  if (ids.dtype() != DType::int64)
    return fail(routing.indices, "has dtype " + std::string(name(ids.dtype())) + " where int64 belongs");
  TensorVerdict out;
  out.tensor = routing.indices;
  out.elements = ids.size();
  std::int64_t ambiguous = 0;
  const auto all = ids.as<std::int64_t>();
  for (std::int64_t t = 0; t < routing.tokens; ++t) {
    const auto chosen =
        all.subspan(static_cast<std::size_t>(t * routing.k), static_cast<std::size_t>(routing.k));
    SelectionVerdict verdict = judge_selection(routing, t, chosen);
    if (verdict.selection == Selection::tied && options.lowest_id_first && !has_nan(routing, t)) {
      verdict.selection = Selection::wrong;
      verdict.finding = "equal scores at the cut, and not the lowest ids";
    }
    total.uncertified_tokens += !verdict.certified;
    total.tied_tokens += verdict.selection == Selection::tied;
    ambiguous += verdict.selection == Selection::explainable;
    if (verdict.selection < Selection::wrong || out.verdict == Verdict::fail) continue;
    out = fail(routing.indices, "token " + std::to_string(t) + ": " + verdict.finding);
    out.elements = ids.size();
    out.index = t * routing.k;
  }
  total.tokens += routing.tokens;
  total.ambiguous_tokens += ambiguous;
  if (out.verdict == Verdict::fail || ambiguous == 0) return out;
  const bool too_many = static_cast<double>(ambiguous) >
                        std::max(1.0, options.ambiguity_ceiling * static_cast<double>(routing.tokens));
  out.verdict = too_many ? Verdict::fail : Verdict::ambiguous;
  out.finding = std::to_string(ambiguous) + " of " + std::to_string(routing.tokens) +
                " tokens chose other experts than the reference within the bounds" +
                (too_many ? ": more than the ceiling allows" : "");
  return out;
}

}  // namespace

CaseVerdict judge(const Call& call, const NamedTensors& candidate, const JudgeOptions& options) {
  CaseVerdict out;
  const Evaluation own = evaluate(call);
  const Signature want = signature(call);

  // Everything is judged on the candidate's routing where that can be computed with: later choices follow
  // from earlier ones through the correction bias. The routing itself is judged on the scores that the
  // reference has there.
  NamedTensors routing;
  bool same = true;
  for (const RoutingScores& scores : own.routing) {
    const Tensor* ids = find(candidate, scores.indices);
    if (!ids || !usable(scores, *ids)) continue;
    routing[scores.indices] = *ids;
    const auto& mine = own.results.at(scores.indices).value;
    for (std::int64_t i = 0; i < ids->size(); ++i)
      same = same && (*ids)[i] == mine[static_cast<std::size_t>(i)];
  }
  const Evaluation forced = same ? Evaluation{} : evaluate(call, routing);
  const Evaluation& reference = same ? own : forced;
  for (const RoutingScores& scores : reference.routing)
    if (const Tensor* ids = find(candidate, scores.indices))
      out.tensors.push_back(judge_ids(scores, *ids, options, out));

  for (const auto& [name, result] : reference.results) {
    if (std::ranges::any_of(reference.routing,
                            [&name = name](const RoutingScores& r) { return r.indices == name; }))
      continue;
    if (const Tensor* tensor = find(candidate, name)) out.tensors.push_back(compare(name, *tensor, result));
  }
  for (const TensorSpec& spec : want.outputs)
    if (spec.required && !find(candidate, spec.name)) out.tensors.push_back(fail(spec.name, "missing"));

  for (TensorVerdict& t : out.tensors) t.own_ratio = t.ratio;
  judge_on_own_stages(call, candidate, routing, out);
  std::ranges::stable_sort(out.tensors, {}, [](const TensorVerdict& t) { return stage_order(t.tensor); });
  for (const TensorVerdict& t : out.tensors) out.verdict = worse(out.verdict, t.verdict);
  if (out.tensors.empty()) out.verdict = Verdict::fail;
  return out;
}

}  // namespace moeref
