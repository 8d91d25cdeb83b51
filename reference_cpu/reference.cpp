#include "moeref/reference.hpp"

#include <array>

#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/call/enumerators.hpp"
#include "reference_cpu/components/bias_update.hpp"
#include "reference_cpu/components/fake_balanced_gate.hpp"
#include "reference_cpu/components/init.hpp"
#include "reference_cpu/components/metrics.hpp"
#include "reference_cpu/components/moe.hpp"
#include "reference_cpu/components/score_quantiles.hpp"

namespace moeref {
namespace {

using IdList = std::vector<std::int64_t>;

std::vector<bool> token_mask(const Call& call, const std::string& name, std::int64_t tokens) {
  std::vector<bool> mask(static_cast<std::size_t>(tokens), true);
  if (const Tensor* given = find(call.tensors, "inputs/" + name))
    for (std::int64_t t = 0; t < tokens; ++t) mask[static_cast<std::size_t>(t)] = (*given)[t] != 0.0;
  return mask;
}

IdList ids_of(const Tensor& tensor) {
  const auto ids = tensor.as<std::int64_t>();
  return {ids.begin(), ids.end()};
}

/// The ids to route by: those judged, else those the call replays, else none (select).
struct RoutingIds {
  std::optional<IdList> indices, dispatched;

  GivenIds pointers() const { return {indices ? &*indices : nullptr, dispatched ? &*dispatched : nullptr}; }
};
RoutingIds given_ids(const Call& call, const NamedTensors& routing, const std::string& suffix) {
  const Tensor* ids = find(routing, "outputs/indices" + suffix);
  // The balanced gate has no replay.
  const bool balanced = parse_call_options(call.options).fake_balanced_gate;
  if (!ids && !balanced) ids = find(call.tensors, "inputs/replay_indices" + suffix);
  const Tensor* dispatched = find(routing, "outputs/dispatched_indices" + suffix);
  return {ids ? std::optional(ids_of(*ids)) : std::nullopt,
          dispatched ? std::optional(ids_of(*dispatched)) : std::nullopt};
}

BoundedTensor integers(const IdList& values, Shape shape) {
  return exact_result(Tensor::of(std::move(shape), std::span<const std::int64_t>(values)));
}

BoundedTensor scalar(Real a, DType dtype) {
  return {dtype, {}, {a.value}, {round_up(store(a, precision(dtype)).error)}};
}

/// Everything a component's evaluation works with.
struct Work {
  const Call& call;
  const NamedTensors& routing;
  CallOptions options;
  Evaluation out;
  ForcedStages forced;

  const Tensor& input(const std::string& name) const { return require(call.tensors, "inputs/" + name); }
  /// The first counts: a stage that is forced was kept before the port's took its place.
  void put(const std::string& name, BoundedTensor result) {
    out.results.try_emplace(name, std::move(result));
  }
  void put(const std::string& name, Bounded matrix, Shape shape) {
    put(name, to_result(std::move(matrix), std::move(shape)));
  }
};

void put_gate(Work& w, const MoEConfig& c, GateForward f) {
  const std::int64_t t = f.logits.rows, e = c.n_routed_experts, k = c.n_activated_experts;
  w.put("outputs/indices", integers(f.indices, {t, k}));
  if (c.drops_slots()) w.put("outputs/dispatched_indices", integers(f.dispatched, {t, k}));
  w.put("outputs/weights", std::move(f.weights), {t, k});
  w.put("outputs/expert_load", integers(f.load, {e}));
  const auto put_loss = [&](const char* name, const std::optional<SequenceLoss>& loss) {
    if (loss) w.put(name, scalar(loss->value, DType::float32));
  };
  put_loss("outputs/aux_loss", f.losses.aux);
  put_loss("outputs/batch_loss", f.losses.batch);
  put_loss("outputs/global_loss", f.losses.global);
  if (f.z_loss) w.put("outputs/z_loss", scalar(*f.z_loss, DType::float32));
  w.put("stages/logits", std::move(f.logits), {t, e});
  w.put("stages/scores", std::move(f.scores), {t, e});
  // Replayed ids are given: there is no choice to judge, only their copy.
  if (!find(w.call.tensors, "inputs/replay_indices")) w.out.routing.push_back(std::move(f.routing));
}

void gate(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const Bounded x = load(w.input("x"), c.dim);
  const std::vector<bool> mask = token_mask(w.call, "token_mask", x.rows);
  const GateParams params = load_gate(c, w.options, w.call.tensors, "params/", x.dtype);
  const auto ids = given_ids(w.call, w.routing, "");
  GateForward f = gate_forward(c, w.options, params, x, mask, ids.pointers(), w.forced);
  if (w.call.backward) {
    const Bounded dw =
        load(require(w.call.tensors, "cotangents/weights"), c.n_activated_experts, f.weights.dtype);
    GateBackward b = gate_backward(c, w.options, params, x, mask, f, dw);
    w.put("grads/x", std::move(b.x), {x.rows, c.dim});
    if (c.train_gate) {
      w.put("grads/weight", std::move(b.weight), {c.n_routed_experts, c.dim});
      if (b.bias) w.put("grads/bias", *std::move(b.bias), {c.n_routed_experts});
      if (b.scale) w.put("grads/per_expert_scale", *std::move(b.scale), {c.n_routed_experts});
      if (b.input_scale) w.put("grads/input_scale", *std::move(b.input_scale), {c.dim});
    }
  }
  put_gate(w, c, std::move(f));
}

void aux_loss_component(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const Bounded scores = load(w.input("original_scores"), c.n_routed_experts);
  const std::vector<bool> mask = token_mask(w.call, "token_mask", scores.rows);
  const IdList ids = ids_of(w.input("indices"));
  const Tensor* accumulated = find(w.call.tensors, "inputs/accumulated_expert_load");
  const SequenceLoss loss =
      sequence_loss(c, {}, scores, ids, mask, accumulated ? ids_of(*accumulated) : IdList{});
  w.put("outputs/expert_load", integers(expert_load(ids, mask, c.n_routed_experts), {c.n_routed_experts}));
  w.put("outputs/aux_loss", scalar(loss.value, DType::float32));
  if (!w.call.backward) return;
  Bounded grad(scores.rows, scores.cols, scores.dtype);
  const auto d = sequence_loss_gradients(loss.terms, known(1.0, precision(DType::float32)));
  for (std::int64_t t = 0; t < scores.rows; ++t)
    for (std::int64_t i = 0; i < scores.cols; ++i)
      if (mask[static_cast<std::size_t>(t)])
        grad.set(t, i, d[sequence_of(t, scores.rows, d.size())][static_cast<std::size_t>(i)]);
  w.put("grads/original_scores", std::move(grad), {scores.rows, scores.cols});
}

/// Rounds of forwards and one update each. Data-parallel ranks route their part of the tokens and sum their
/// loads.
void bias_update(Work& w) {
  MoEConfig c = parse_moe_config(w.call.config).without_losses();
  c.per_expert_scale = false;
  if (!w.options.training)
    throw InputError("call option 'training' is false: the bias update is part of training");
  GateParams params;
  std::optional<BiasUpdate> update;
  for (std::int64_t s = 0; s < w.options.steps; ++s) {
    for (std::int64_t m = 0; m < w.options.micro_batches; ++m) {
      const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
      const Bounded x = load(w.input("x" + at), c.dim);
      if (!update) {
        params = load_gate(c, w.options, w.call.tensors, "params/", x.dtype);
        update.emplace(c, params.correction.value_or(std::vector<Real>{}));
      }
      params.correction = update->correction();
      const std::vector<bool> mask = token_mask(w.call, "token_mask" + at, x.rows);
      const auto ids = given_ids(w.call, w.routing, at);
      GateForward f = gate_forward(c, w.options, params, x, mask, ids.pointers());
      const auto offsets =
          rank_offsets(w.options.parallel.dp_size, w.options.parallel.tokens_per_rank, x.rows);
      for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
        update->accumulate(expert_load({f.indices.begin() + offsets[r] * c.n_activated_experts,
                                        f.indices.begin() + offsets[r + 1] * c.n_activated_experts},
                                       {mask.begin() + offsets[r], mask.begin() + offsets[r + 1]},
                                       c.n_routed_experts));
        if (c.bias_update_rule == BiasUpdateRule::sign_of_load) continue;
        if (auto quantiles =
                score_quantiles(c, w.options, *params.correction, f.logits, mask, offsets[r], offsets[r + 1]))
          update->accumulate_quantiles(*std::move(quantiles));
      }
      w.put("outputs/indices" + at, integers(f.indices, {x.rows, c.n_activated_experts}));
      f.routing.indices = "outputs/indices" + at;
      if (!find(w.call.tensors, "inputs/replay_indices" + at)) w.out.routing.push_back(std::move(f.routing));
    }
    const std::string at = "_" + std::to_string(s);
    w.put("outputs/cumulative_expert_load" + at, integers(*update->cumulative_load(), {c.n_routed_experts}));
    update->update();
    Bounded bias(1, c.n_routed_experts, DType::float32);
    for (std::int64_t i = 0; i < bias.cols; ++i)
      bias.set(i, update->correction()[static_cast<std::size_t>(i)]);
    w.put("outputs/e_score_correction_bias" + at, std::move(bias), {c.n_routed_experts});
  }
}

void fake_balanced_gate_component(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const Tensor& x = w.input("x");
  const FakeRouting fake =
      fake_balanced_gate(x, c, w.options.skip_first_n_experts, w.options.fake_gate_noise);
  const std::int64_t tokens = x.extent(0), k = c.n_activated_experts;
  w.put("outputs/indices", exact_result(fake.indices));
  w.put("outputs/weights", fake_balanced_weights(fake, k, x.dtype()), {tokens, k});
}

void mlp(Work& w) {
  const MLPConfig c = parse_mlp_config(w.call.config);
  const Tensor& input = w.input("x");
  const Bounded x = load(input, c.dim);
  const MLPParams params = load_mlp(c, w.call.tensors, "params/", x.dtype);
  MLPForward f = mlp_forward(c, w.options, params, x);
  if (w.call.backward) {
    MLPBackward b = mlp_backward(c, w.options, params, x, f,
                                 load(require(w.call.tensors, "cotangents/y"), c.dim, x.dtype));
    w.put("grads/x", add_in_any_order(b.x, x.dtype), input.shape());
    add_mlp_gradients(w.call.tensors, std::move(b.params), "", w.out.results);
  }
  w.put("outputs/y", std::move(f.y), input.shape());
}

void put_experts_stages(Work& w, const MoEConfig& c, std::int64_t tokens, ExpertsForward f) {
  const std::int64_t k = c.n_activated_experts;
  w.put("stages/up_projection", std::move(f.up), {tokens, k, c.up_dim()});
  w.put("stages/activation", std::move(f.activation), {tokens, k, c.moe_inter_dim});
  w.put("stages/down_projection", std::move(f.down), {tokens, k, c.expert_dim()});
}

void experts(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const std::int64_t dim = c.expert_dim(), k = c.n_activated_experts;
  const DType held = w.input("x").dtype();
  const Bounded x = experts_tokens(c, load(w.input("x"), dim)), weights = load(w.input("weights"), k);
  const std::vector<bool> mask = token_mask(w.call, "token_mask", x.rows);
  const IdList ids = ids_of(w.input("indices"));
  const Routing routing{ids, weights, mask};
  const ExpertsParams params = find_experts(c, w.call.tensors, "params/");
  const bool backward = w.call.backward;
  const Bounded dy = backward ? load(require(w.call.tensors, "cotangents/y"), dim, x.dtype) : Bounded();
  ExpertsBackward b;
  Bounded y;
  if (w.options.parallel.ep_size > 1) {
    const ParallelForward f = experts_forward_parallel(c, w.options, params, x, routing);
    if (backward) b = experts_backward_parallel(c, w.options, params, f, dy, "", w.out.results);
    y = f.y;
  } else {
    const ExpertRange all{0, c.n_routed_experts};
    ExpertsForward f = experts_forward(c, w.options, params, x, routing, all, w.forced);
    if (backward) b = experts_backward(c, w.options, params, x, routing, all, f, dy, "", w.out.results);
    y = std::move(f.y);
    put_experts_stages(w, c, x.rows, std::move(f));
  }
  w.put("outputs/y", cast(std::move(y), held), {x.rows, dim});
  if (!backward) return;
  w.put("grads/x", cast(std::move(b.x), held), {x.rows, dim});
  w.put("grads/weights", std::move(b.weights), {x.rows, k});
}

void moe(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const Tensor& input = w.input("x");
  const Bounded x = load(input, c.dim);
  std::vector<bool> mask = token_mask(w.call, "padding_mask", x.rows);
  if (find(w.call.tensors, "inputs/padding_mask")) mask.flip();
  const auto ids = given_ids(w.call, w.routing, "");
  MoEForward f = moe_forward(c, w.options, w.call.tensors, x, mask, ids.pointers(), w.forced);
  if (w.call.backward) {
    const Bounded dy = load(require(w.call.tensors, "cotangents/y"), c.dim, x.dtype);
    w.put("grads/x", moe_backward(c, w.options, w.call.tensors, x, mask, f, dy, w.out.results),
          input.shape());
  }
  w.put("outputs/y", std::move(f.y), input.shape());
  if (f.experts) put_experts_stages(w, c, x.rows, *std::move(f.experts));
  if (f.gate) {
    put_gate(w, c, *std::move(f.gate));
    return;
  }
  const Shape slots{x.rows, c.n_activated_experts};
  w.put("outputs/indices", integers(f.indices, slots));
  w.put("outputs/weights", std::move(f.weights), slots);
  w.put("outputs/expert_load",
        integers(expert_load(f.indices, mask, c.n_routed_experts), {c.n_routed_experts}));
}

void init(Work& w) { init_results(w.call.config, w.options, w.out.results); }

/// The documented system computes its metrics in fp32 tensors: sums of E terms and a few operations each.
void metrics(Work& w) {
  const MoEConfig c = parse_moe_config(w.call.config);
  const std::int64_t e = c.n_routed_experts;
  const Tensor& loads = w.input("expert_load");
  const std::int64_t layers = loads.extent(0);
  const double unit = gamma(2 * e + 16, precision(DType::float32).unit);
  std::vector<LayerMetrics> all;
  Bounded cv(1, layers, DType::float64), dead(1, layers, DType::float64),
      diversity(1, layers, DType::float64), utilization(layers, e, DType::float64);
  const auto put = [&](Bounded& m, std::int64_t i, double value) {
    m.set(i, {value, unit * value, Precision{}});
  };
  for (std::int64_t l = 0; l < layers; ++l) {
    std::vector<double> load(static_cast<std::size_t>(e));
    loads.read(l * e, load);
    all.push_back(layer_metrics(load));
    put(cv, l, all.back().cv);
    put(dead, l, all.back().dead_expert_frac);
    put(diversity, l, all.back().expert_diversity);
    for (std::int64_t i = 0; i < e; ++i)
      put(utilization, l * e + i, all.back().utilization[static_cast<std::size_t>(i)]);
  }
  w.put("outputs/cv", std::move(cv), {layers});
  w.put("outputs/dead_expert_frac", std::move(dead), {layers});
  w.put("outputs/expert_diversity", std::move(diversity), {layers});
  w.put("outputs/expert_utilization", std::move(utilization), {layers, e});
  for (const auto& [name, value] : aggregate_metrics(all))
    w.put("outputs/" + name, scalar({value, unit * value, Precision{}}, DType::float64));
}

struct EvaluateRow {
  Component kind;
  void (*evaluate)(Work& work);
};
constexpr auto kEvaluateRows = std::to_array<EvaluateRow>({
    {Component::gate, gate},
    {Component::aux_loss, aux_loss_component},
    {Component::bias_update, bias_update},
    {Component::fake_balanced_gate, fake_balanced_gate_component},
    {Component::mlp, mlp},
    {Component::experts, experts},
    {Component::moe, moe},
    {Component::init, init},
    {Component::metrics, metrics},
});
static_assert(has_row_per_enumerator<kEvaluateRows>());

}  // namespace

Evaluation evaluate(const Call& call, const NamedTensors& routing, const NamedTensors& stages) {
  check_inputs(call);
  Work w{call, routing, parse_call_options(call.options), {}, {}};
  w.forced = ForcedStages(stages, w.out.results);
  kEvaluateRows[static_cast<std::size_t>(call.component)].evaluate(w);
  return std::move(w.out);
}

NamedTensors CpuReference::run(const Call& call) {
  NamedTensors out;
  for (auto& [name, result] : evaluate(call).results) {
    Tensor tensor(is_floating(result.dtype) ? DType::float64 : result.dtype, result.shape);
    for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, result.value[static_cast<std::size_t>(i)]);
    out[name] = std::move(tensor);
  }
  return out;
}

}  // namespace moeref
