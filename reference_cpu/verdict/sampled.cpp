#include "reference_cpu/verdict/sampled.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/call/tokens.hpp"
#include "reference_cpu/verdict/compare.hpp"
#include "reference_cpu/verdict/copied_tokens.hpp"
#include "reference_cpu/verdict/reduced_call.hpp"
#include "reference_cpu/verdict/reference_results.hpp"

namespace moeref {
namespace {

/// FAIL at one element.
TensorVerdict wrong(const std::string& tensor, std::string finding, std::int64_t index = -1) {
  TensorVerdict out = failed(tensor, std::move(finding));
  out.own_ratio = out.probable_ratio = out.ratio;
  out.index = index;
  return out;
}

/// FNV-1a over 64-bit words.
std::uint64_t hash_of(const NamedTensors& results) {
  std::uint64_t hash = name_hash("sample");
  for (const auto& [name, tensor] : results)
    for (std::size_t at = 0; at + 8 <= tensor.bytes().size(); at += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, tensor.bytes().data() + at, 8);
      hash = (hash ^ word) * 0x100000001b3u;
    }
  return hash;
}

/// Collects verdicts, one per tensor: the worst of all that were given for it.
class Verdicts {
 public:
  void add(TensorVerdict verdict, std::int64_t judged) {
    judged_[verdict.tensor] += judged;
    const auto [at, fresh] = by_name_.try_emplace(verdict.tensor, verdict);
    const TensorVerdict& now = at->second;
    if (!fresh &&
        (verdict.verdict > now.verdict || (verdict.verdict == now.verdict && verdict.ratio > now.ratio)))
      at->second = std::move(verdict);
  }
  /// Adds what `whole` has; the counts of tokens are added up.
  CaseVerdict in_order(CaseVerdict whole) const {
    whole.tensors.clear();
    whole.verdict = by_name_.empty() ? Verdict::fail : Verdict::pass;
    for (const auto& [name, verdict] : by_name_) {
      whole.tensors.push_back(verdict);
      whole.verdict = worse(whole.verdict, verdict.verdict);
    }
    std::ranges::stable_sort(whole.tensors, {}, [](const TensorVerdict& t) { return stage_order(t.tensor); });
    return whole;
  }
  std::int64_t judged() const {
    std::int64_t sum = 0;
    for (const auto& [name, count] : judged_) sum += count;
    return sum;
  }

 private:
  std::map<std::string, TensorVerdict> by_name_;
  std::map<std::string, std::int64_t> judged_;
};

/// What the second and the third call give: everything but the losses.
Signature without_loss(const Call& call) {
  Signature out = signature(call);
  std::erase_if(out.outputs, [](const TensorSpec& spec) { return spec.name.ends_with("_loss"); });
  return out;
}

/// Required results that are not there, and those of another shape or kind.
bool check_results(const Signature& want, const NamedTensors& results, const char* of, Verdicts& out) {
  bool well = true;
  for (const TensorSpec& spec : want.outputs) {
    const Tensor* tensor = find(results, spec.name);
    std::string finding;
    if (!tensor)
      finding = spec.required ? "missing" : "";
    else if (tensor->shape() != spec.shape)
      finding = "has shape " + to_string(tensor->shape()) + " where " + to_string(spec.shape) + " belongs";
    else if (is_floating(tensor->dtype()) != is_floating(spec.dtype))
      finding = "has dtype " + std::string(name(tensor->dtype())) + " where " +
                std::string(name(spec.dtype)) + " belongs";
    if (finding.empty()) continue;
    out.add(wrong(spec.name, finding + of), 0);
    well = false;
  }
  return well;
}

/// The part of a result that lies in a reduced call's, against the reference there.
TensorVerdict compare_part(const std::string& tensor, const Tensor& whole, const ReducedResult& part,
                           const BoundedTensor& reference) {
  const auto first = static_cast<std::ptrdiff_t>(part.first), count = part.in_whole.size();
  BoundedTensor there{reference.dtype, part.in_whole.shape(), {}, {}};
  there.value.assign(reference.value.begin() + first, reference.value.begin() + first + count);
  there.bound.assign(reference.bound.begin() + first, reference.bound.begin() + first + count);
  TensorVerdict out = compare(tensor, part.in_whole.of(whole), there);
  out.elements = whole.size();
  if (out.index >= 0) out.index = part.in_whole.whole_index(out.index);
  out.own_ratio = out.probable_ratio = out.ratio;
  return out;
}

void judge_parts(const ReducedCall& reduced, const NamedTensors& results, Verdicts& out) {
  const Evaluation evaluation = evaluate(reduced.call);
  for (const auto& [name, part] : reduced.results)
    if (const Tensor* tensor = find(results, name))
      out.add(compare_part(name, *tensor, part, evaluation.results.at(name)), part.in_whole.size());
}

/// Rows of results, in the order of the sample.
NamedTensors rows_of(const NamedTensors& results, const ReducedCall& sample, bool gradient_of_x) {
  NamedTensors out;
  for (const auto& [name, part] : sample.results)
    if (const Tensor* tensor = find(results, name); tensor && (gradient_of_x || name != "grads/x"))
      out[name] = part.in_whole.of(*tensor);
  return out;
}

/// judge() on the reduced call, for the tensors that the candidate has; indices are those of the whole call.
void judge_rows(ReferenceResults& reference, const ReducedCall& sample, const NamedTensors& candidate,
                const JudgeOptions& options, const char* of, Verdicts& out, CaseVerdict* counts) {
  CaseVerdict verdict = moeref::judge(reference, candidate, options);
  for (TensorVerdict& t : verdict.tensors) {
    const Tensor* tensor = find(candidate, t.tensor);
    if (!tensor) continue;
    if (const auto part = sample.results.find(t.tensor); part != sample.results.end() && t.index >= 0) {
      const std::int64_t width = tensor->size() / std::max<std::int64_t>(tensor->extent(0), 1);
      t.index = part->second.in_whole.whole_index(t.index);
      if (t.tensor == "outputs/indices" && t.verdict == Verdict::fail)
        t.finding += "; token " + std::to_string(t.index / std::max<std::int64_t>(width, 1)) + " of the call";
    }
    if (!t.finding.empty()) t.finding += of;
    out.add(std::move(t), counts ? tensor->size() : 0);
  }
  if (counts) *counts = std::move(verdict);
}

}  // namespace

SampledJudge::SampledJudge(const Call& call, const NamedTensors& results, const SampleSize& size)
    : call_(call), results_(results), size_(size), seed_(hash_of(results)) {
  if (call.component != Component::mlp) {
    const MoEConfig c = parse_moe_config(call.config);
    ids_ = find(call.tensors, "inputs/indices");
    if (!ids_) ids_ = find(call.tensors, "inputs/replay_indices");
    const bool given = ids_ != nullptr;
    if (!ids_) ids_ = find(results, "outputs/indices");
    const Shape want{token_count(call), c.n_activated_experts};
    if (ids_ && (ids_->shape() != want || ids_->dtype() != DType::int64)) ids_ = nullptr;
    rows_.assign(static_cast<std::size_t>(c.n_routed_experts), 0);
    const std::vector<bool> live = live_tokens(call);
    for (std::int64_t slot = 0; ids_ && slot < ids_->size(); ++slot) {
      const std::int64_t k = want[1], id = ids_->as<std::int64_t>()[static_cast<std::size_t>(slot)];
      const bool null = given && id == c.null_id(), in_range = null || (id >= 0 && id < c.n_routed_experts);
      if (!in_range) {
        ids_finding_ = "slot " + std::to_string(slot) + " holds the expert id " + std::to_string(id);
        ids_ = nullptr;
      } else if (!null && live[static_cast<std::size_t>(slot / k)]) {
        ++rows_[static_cast<std::size_t>(id)];
      }
    }
  }
  draw_tokens();
}

void SampledJudge::draw_tokens() {
  const std::int64_t all = token_count(call_);
  std::set<std::int64_t> chosen;
  const auto put = [&](std::int64_t t) {
    if (t >= 0 && t < all) chosen.insert(t);
  };
  put(0);
  for (std::int64_t step = 32; step <= all; step *= 2) {
    put(step - 1);
    put(step);
  }
  for (const std::int64_t last : {1, 2, 33, 65}) put(all - last);

  // The last tokens of some experts.
  if (ids_)
    for (const std::int64_t expert : draw_experts())
      for (std::int64_t slot = ids_->size(), found = 0; slot-- > 0 && found < 2;)
        if (ids_->as<std::int64_t>()[static_cast<std::size_t>(slot)] == expert) {
          put(slot / ids_->extent(1));
          ++found;
        }

  // Rows that look odd: the largest, the first that is zero throughout, and those that are not finite. Where
  // they overflow, as the reference then says, they reach the gradients of the second call too: inf times 0.
  for (const char* name : {"outputs/y", "grads/x"}) {
    const Tensor* tensor = find(results_, name);
    if (!tensor || tensor->size() == 0 || tensor->size() % all != 0) continue;
    const std::int64_t width = tensor->size() / all;
    std::vector<double> largest(static_cast<std::size_t>(all), 0.0);
    parallel_pieces(all, 64, [&](std::int64_t first, std::int64_t count) {
      std::vector<double> row(static_cast<std::size_t>(width));
      for (std::int64_t t = first; t < first + count; ++t) {
        tensor->read(t * width, row);
        double& most = largest[static_cast<std::size_t>(t)];
        for (const double value : row)
          most = std::isfinite(value) ? std::max(most, std::abs(value)) : INFINITY;
      }
    });
    put(std::ranges::max_element(largest) - largest.begin());
    put(std::ranges::find(largest, 0.0) - largest.begin());
    for (std::int64_t t = 0, found = 0; t < all && found < size_.tokens; ++t)
      if (std::isinf(largest[static_cast<std::size_t>(t)])) {
        put(t);
        ++found;
      }
  }

  // One in each stretch: an error in a share f of the rows is missed with probability (1 - f)^n at most, as
  // if the n were drawn from all tokens, and no run of twice a stretch's tokens is missed.
  random_tokens_ = std::min(size_.tokens, all);
  const CounterGenerator random(seed_, "tokens");
  for (std::int64_t i = 0; i < random_tokens_; ++i) {
    const std::int64_t first = i * all / random_tokens_, last = (i + 1) * all / random_tokens_;
    const auto length = static_cast<std::uint64_t>(last - first);
    put(first + static_cast<std::int64_t>(random.integer(static_cast<std::uint64_t>(i), length)));
  }
  tokens_.assign(chosen.begin(), chosen.end());
  copied_ = draw_copies(seed_, static_cast<std::int64_t>(tokens_.size()), all);
}

std::vector<std::int64_t> SampledJudge::draw_units(std::int64_t width, std::uint64_t stream) const {
  std::set<std::int64_t> chosen;
  for (const std::int64_t edge :
       {std::int64_t{0}, std::int64_t{63}, std::int64_t{64}, std::int64_t{127}, std::int64_t{128}, width - 1})
    if (edge < width) chosen.insert(edge);
  const CounterGenerator random(seed_, "units");
  for (std::int64_t draw = 0; draw < size_.units; ++draw)
    chosen.insert(static_cast<std::int64_t>(
        random.integer(stream * 4096 + static_cast<std::uint64_t>(draw), static_cast<std::uint64_t>(width))));
  return {chosen.begin(), chosen.end()};
}

/// The experts with the most and the fewest rows, the first and the last that have any, and random ones.
std::vector<std::int64_t> SampledJudge::draw_experts() const {
  std::vector<std::int64_t> busy;
  for (std::size_t e = 0; e < rows_.size(); ++e)
    if (rows_[e] > 0) busy.push_back(static_cast<std::int64_t>(e));
  if (busy.empty()) return busy;
  const auto rows = [&](std::int64_t e) { return rows_[static_cast<std::size_t>(e)]; };
  std::set<std::int64_t> chosen{busy.front(), busy.back(), *std::ranges::max_element(busy, {}, rows),
                                *std::ranges::min_element(busy, {}, rows)};
  const CounterGenerator random(seed_, "experts");
  for (std::uint64_t draw = 0; static_cast<std::int64_t>(chosen.size()) < size_.experts && draw < 64; ++draw)
    chosen.insert(busy[random.integer(draw, busy.size())]);
  return {chosen.begin(), chosen.end()};
}

Call SampledJudge::sparse_call() const { return with_cotangent_at(call_, tokens_); }

Call SampledJudge::copies_call() const {
  std::vector<std::int64_t> order(copied_.size());
  std::ranges::transform(copied_, order.begin(),
                         [this](std::int64_t i) { return tokens_[static_cast<std::size_t>(i)]; });
  return with_copies(call_, order);
}

namespace {

/// Gradients of experts without a row.
void judge_idle_experts(const std::vector<std::int64_t>& rows, const std::string& prefix,
                        const NamedTensors& results, Verdicts& out) {
  for (const char* name : {"gate_and_up_projs", "down_projs", "gate_up_proj_bias", "down_proj_bias"}) {
    const std::string gradient = "grads/" + prefix + name;
    const Tensor* tensor = find(results, gradient);
    if (!tensor || tensor->size() == 0) continue;
    const std::int64_t slice = tensor->size() / tensor->extent(0);
    std::vector<double> values(static_cast<std::size_t>(slice));
    for (std::size_t e = 0; e < rows.size(); ++e) {
      if (rows[e] > 0) continue;
      const std::int64_t first = static_cast<std::int64_t>(e) * slice;
      tensor->read(first, values);
      const auto other = std::ranges::find_if(values, [](double value) { return value != 0.0; });
      if (other == values.end()) continue;
      TensorVerdict verdict = wrong(gradient, "expert " + std::to_string(e) + " has no token, and a gradient",
                                    first + (other - values.begin()));
      verdict.value = *other;
      out.add(std::move(verdict), 0);
      break;
    }
  }
}

/// Of the second call: tokens without a cotangent have no gradient.
void judge_silent_tokens(const Call& call, const std::vector<std::int64_t>& tokens,
                         const NamedTensors& sparse, Verdicts& out) {
  const std::int64_t all = token_count(call);
  std::vector<bool> speaks(static_cast<std::size_t>(all), false);
  for (const std::int64_t t : tokens) speaks[static_cast<std::size_t>(t)] = true;
  const Tensor* dx = find(sparse, "grads/x");
  if (!dx || dx->size() == 0) return;
  const std::int64_t width = dx->size() / all;
  std::vector<double> row(static_cast<std::size_t>(width));
  for (std::int64_t t = 0; t < all; ++t) {
    if (speaks[static_cast<std::size_t>(t)]) continue;
    dx->read(t * width, row);
    const auto other = std::ranges::find_if(row, [](double value) { return value != 0.0; });
    if (other == row.end()) continue;
    TensorVerdict verdict =
        wrong("grads/x", "token " + std::to_string(t) + " has no cotangent, and a gradient",
              t * width + (other - row.begin()));
    verdict.value = *other;
    out.add(std::move(verdict), 0);
    return;
  }
}

void judge_load(const std::vector<std::int64_t>& rows, const NamedTensors& results, Verdicts& out) {
  const Tensor* load = find(results, "outputs/expert_load");
  if (!load) return;
  TensorVerdict verdict;
  verdict.tensor = "outputs/expert_load";
  verdict.elements = load->size();
  for (std::int64_t e = 0; e < load->size(); ++e) {
    const auto want = static_cast<double>(rows[static_cast<std::size_t>(e)]);
    if ((*load)[e] == want) continue;
    verdict = wrong(verdict.tensor, "not the number of the expert's slots", e);
    verdict.value = (*load)[e];
    verdict.reference = want;
    break;
  }
  out.add(std::move(verdict), load->size());
}

}  // namespace

SampledVerdict SampledJudge::judge(const NamedTensors* sparse, const NamedTensors* copies,
                                   const JudgeOptions& options) const {
  Verdicts out;
  SampledVerdict sampled;
  sampled.tokens = random_tokens_;
  for (const TensorSpec& spec : signature(call_).outputs) sampled.elements += element_count(spec.shape);
  if (!ids_finding_.empty()) out.add(wrong("outputs/indices", ids_finding_), 0);
  bool well = check_results(signature(call_), results_, "", out) && ids_finding_.empty();
  if (sparse) well = check_results(without_loss(call_), *sparse, ", of the second call", out) && well;
  if (copies) well = check_results(without_loss(call_), *copies, ", of the third call", out) && well;
  if (!well) {
    sampled.verdict = out.in_order({});
    return sampled;
  }

  const ReducedCall sample = reduce_to_tokens(call_, tokens_);
  ReferenceResults reference(sample.call);
  const bool mlp = call_.component == Component::mlp;
  const bool loss = !mlp && parse_moe_config(call_.config).has_loss() &&
                    parse_call_options(call_.options).training && call_.component != Component::experts;
  judge_rows(reference, sample, rows_of(results_, sample, !loss), options, "", out, &sampled.verdict);
  if (sparse) {
    NamedTensors candidate = rows_of(*sparse, sample, true);
    for (const auto& [name, tensor] : *sparse)
      if (name.starts_with("grads/") && !sample.results.contains(name)) candidate[name] = tensor;
    judge_rows(reference, sample, candidate, options, ", with a cotangent at the sampled tokens alone", out,
               nullptr);
    judge_silent_tokens(call_, tokens_, *sparse, out);
  }
  if (copies) {
    const Evaluation& few = reference.on_routing_of(rows_of(results_, sample, false));
    CopiesVerdict verdict =
        judge_copies(few, copied_, *copies, ", where each token is a copy of a sampled one");
    for (TensorVerdict& t : verdict.tensors) out.add(std::move(t), 0);
    sampled.copied = verdict.judged;
    sampled.open_copies = verdict.open;
  }
  if (ids_ && (call_.component == Component::gate || call_.component == Component::moe))
    judge_load(rows_, results_, out);

  if (call_.backward && mlp)
    judge_parts(reduce_mlp_to_units(call_, draw_units(parse_mlp_config(call_.config).inter_dim, 0)), results_,
                out);
  const bool layer = call_.component == Component::moe;
  if (call_.backward && ids_ && (layer || call_.component == Component::experts)) {
    const MoEConfig c = parse_moe_config(call_.config);
    judge_idle_experts(rows_, layer ? "experts." : "", results_, out);
    for (const std::int64_t expert : draw_experts()) {
      const double slots =
          static_cast<double>(rows_[static_cast<std::size_t>(expert)] * (layer ? c.n_activated_experts : 1));
      // Each slot has some rows of the layer's width, in fp64 with bounds.
      if (slots * static_cast<double>(c.expert_dim()) * 64.0 > size_.bytes) continue;
      judge_parts(reduce_to_expert(call_, *ids_, expert,
                                   draw_units(c.moe_inter_dim, 1 + static_cast<std::uint64_t>(expert))),
                  results_, out);
    }
    if (layer && c.n_shared_experts > 0)
      judge_parts(reduce_to_shared_units(call_, draw_units(c.shared_dim(), 0)), results_, out);
  }
  sampled.judged = out.judged();
  sampled.verdict = out.in_order(std::move(sampled.verdict));
  return sampled;
}

}  // namespace moeref
