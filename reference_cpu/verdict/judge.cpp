// judge(): the routing first, then everything else on that routing.
#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/verdict/compare.hpp"
#include "reference_cpu/verdict/own_selection.hpp"
#include "reference_cpu/verdict/probable_error.hpp"
#include "reference_cpu/verdict/reference_results.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"

namespace moeref {
namespace {

/// Judges each tensor once more, on the stages before it as the candidate shows them: bounds are narrower
/// then, and errors that only follow from an earlier stage are told apart.
void judge_on_own_stages(ReferenceResults& reference, const NamedTensors& candidate, CaseVerdict& total) {
  const bool shown =
      std::ranges::any_of(candidate, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  // Where all of the candidate's results are the reference's own, judging on its stages gives nothing new.
  if (!shown || !reference.differing_bits(candidate)) return;
  const Evaluation forced = reference.on_stages_of(candidate);
  for (TensorVerdict& free : total.tensors) {
    const auto it = forced.results.find(free.tensor);
    // Gradients are left out: a port may compute a stage again in its backward pass, and that stage differs
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

/// A failure may be that of a stage before it that the candidate keeps to itself: those are named, as far
/// back as the last stage that it shows.
void name_hidden_stages(const Evaluation& reference, const NamedTensors& candidate, CaseVerdict& total) {
  const TensorVerdict* first = total.first_failure();
  if (!first || first->tensor.starts_with("grads/") || first->own_ratio <= 1.0) return;
  const auto position = [](const auto& entry) { return stage_order(entry.first); };
  int shown = -1;
  for (const auto& entry : candidate)
    if (entry.first.starts_with("stages/") && position(entry) < stage_order(first->tensor))
      shown = std::max(shown, position(entry));
  std::string hidden;
  for (const auto& entry : reference.results)
    if (shown >= 0 && entry.first.starts_with("stages/") && !find(candidate, entry.first) &&
        position(entry) > shown && position(entry) < stage_order(first->tensor))
      hidden += (hidden.empty() ? "" : ", ") + entry.first;
  if (hidden.empty()) return;
  total.tensors[static_cast<std::size_t>(first - total.tensors.data())].finding +=
      "; " + hidden + " before it is not shown, and may be what is wrong";
}

/// The verdict on all ids of one routing decision; counts go to `total`. Choices that the reference's bounds
/// leave open are looked up in the candidate's own logits and scores.
TensorVerdict judge_ids(const Call& call, const NamedTensors& candidate, const RoutingScores& routing,
                        const Tensor& ids, const JudgeOptions& options, CaseVerdict& total) {
  const Shape want{routing.tokens, routing.k};
  if (ids.shape() != want)
    return failed(routing.indices,
                  "has shape " + to_string(ids.shape()) + " where " + to_string(want) + " belongs");
  if (ids.dtype() != DType::int64)
    return failed(routing.indices, "has dtype " + std::string(name(ids.dtype())) + " where int64 belongs");
  TensorVerdict out;
  out.tensor = routing.indices;
  out.elements = ids.size();
  std::int64_t ambiguous = 0;
  const OwnSelection own =
      usable(routing, &ids) ? judge_own_selection(call, candidate, routing, ids, options) : OwnSelection{};
  total.shows_scores = total.shows_scores || own.shown;
  const auto all = ids.as<std::int64_t>();
  for (std::int64_t t = 0; t < routing.tokens; ++t) {
    const auto chosen =
        all.subspan(static_cast<std::size_t>(t * routing.k), static_cast<std::size_t>(routing.k));
    SelectionVerdict verdict = judge_selection(routing, t, chosen);
    if (verdict.selection == Selection::tied && options.lowest_id_first && !has_nan(routing, t)) {
      verdict.selection = Selection::wrong;
      verdict.finding = "equal scores at the cut, and not the lowest ids";
    }
    const bool proven = own.shown && own.wrong < 0 && own.proven[static_cast<std::size_t>(t)];
    total.uncertified_tokens += !verdict.certified;
    total.own_certified_tokens += !verdict.certified && verdict.selection < Selection::wrong && proven;
    total.tied_tokens += verdict.selection == Selection::tied;
    ambiguous += verdict.selection == Selection::explainable && !proven;
    if (verdict.selection < Selection::wrong || out.verdict == Verdict::fail) continue;
    out = failed(routing.indices, "token " + std::to_string(t) + ": " + verdict.finding);
    out.elements = ids.size();
    out.index = t * routing.k;
  }
  total.tokens += routing.tokens;
  total.ambiguous_tokens += ambiguous;
  if (out.verdict != Verdict::fail && own.wrong >= 0) {
    out = failed(routing.indices, own.finding);
    out.elements = ids.size();
    out.index = own.wrong * routing.k;
  }
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
  ReferenceResults reference(call);
  return judge(reference, candidate, options);
}

CaseVerdict judge(ReferenceResults& results, const NamedTensors& candidate, const JudgeOptions& options) {
  CaseVerdict out;
  // The routing is judged on the scores that the reference has on the candidate's earlier choices.
  const Evaluation& reference = results.on_routing_of(candidate);
  for (const RoutingScores& scores : reference.routing)
    if (const Tensor* ids = find(candidate, scores.indices))
      out.tensors.push_back(judge_ids(results.call(), candidate, scores, *ids, options, out));

  for (const auto& [name, result] : reference.results) {
    if (std::ranges::any_of(reference.routing,
                            [&name = name](const RoutingScores& r) { return r.indices == name; }))
      continue;
    if (const Tensor* tensor = find(candidate, name)) out.tensors.push_back(compare(name, *tensor, result));
  }
  for (const TensorSpec& spec : signature(results.call()).outputs)
    if (spec.required && !find(candidate, spec.name)) out.tensors.push_back(failed(spec.name, "missing"));

  for (TensorVerdict& t : out.tensors) t.own_ratio = t.ratio;
  judge_on_own_stages(results, candidate, out);
  for (TensorVerdict& t : out.tensors) t.probable_ratio = t.ratio / probable_share(results.call(), t.tensor);
  std::ranges::stable_sort(out.tensors, {}, [](const TensorVerdict& t) { return stage_order(t.tensor); });
  name_hidden_stages(reference, candidate, out);
  for (const TensorVerdict& t : out.tensors) out.verdict = worse(out.verdict, t.verdict);
  if (out.tensors.empty()) out.verdict = Verdict::fail;
  return out;
}

}  // namespace moeref
