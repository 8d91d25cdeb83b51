#include "reference_cpu/components/moe.hpp"

#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/fake_balanced_gate.hpp"
#include "reference_cpu/components/parallelism.hpp"
#include "reference_cpu/components/rms_norm.hpp"

namespace moeref {
namespace {

/// A latent projection with its bias.
struct Projection {
  Bounded weight;
  std::optional<Bounded> bias;

  Projection(const MoEConfig& c, const NamedTensors& tensors, const std::string& name, std::int64_t out,
             std::int64_t in, DType compute)
      : weight(load(require(tensors, "params/" + name + ".weight"), 0, out, in, compute)) {
    if (c.expert_bias) bias = load(require(tensors, "params/" + name + ".bias"), 0, 1, out, compute);
  }
  Bounded operator()(const CallOptions& o, const Bounded& x) const {
    return linear(x, weight, bias ? &*bias : nullptr, sums_of(x.dtype, o.float32_products), x.dtype);
  }
};

Projection fc1(const MoEConfig& c, const NamedTensors& tensors, DType compute) {
  return {c, tensors, "fc1_latent_proj", *c.moe_latent_size, c.dim, compute};
}
Projection fc2(const MoEConfig& c, const NamedTensors& tensors, DType compute) {
  return {c, tensors, "fc2_latent_proj", c.dim, *c.moe_latent_size, compute};
}

/// Rows of the latent size over their root mean square, times latent_norm.weight.
Bounded latent_norm(const MoEConfig& c, const NamedTensors& tensors, const Bounded& x) {
  const Bounded weight = load(require(tensors, "params/latent_norm.weight"), 0, 1, x.cols, x.dtype);
  return rms_norm(x, weight, c.latent_norm_eps, 1.0, x.dtype);
}

/// Stores a parameter's gradient in `grads`, in the parameter's own type.
void put_gradient(const NamedTensors& tensors, const std::string& name, Bounded gradient,
                  std::map<std::string, BoundedTensor>& grads) {
  const Tensor& param = require(tensors, "params/" + name);
  grads["grads/" + name] = to_result(cast(std::move(gradient), param.dtype()), param.shape());
}

/// Stores the gradients of a Linear's parameters under "grads/{name}" and returns that of its input.
Bounded linear_backward(const CallOptions& o, const NamedTensors& tensors, const Bounded& x,
                        const Bounded& weight, bool bias, const Bounded& dy, RankRows ranks,
                        const std::string& name, std::map<std::string, BoundedTensor>& grads) {
  const Sums sums = sums_of(x.dtype, o.float32_products);
  put_gradient(tensors, name + ".weight", weight_gradient(dy, x, sums, x.dtype, x.dtype, ranks), grads);
  if (bias) put_gradient(tensors, name + ".bias", bias_gradient(dy, x.dtype, x.dtype, ranks), grads);
  return multiply(dy, false, weight, false, sums, x.dtype);
}

/// The gradient of the rows `x` that latent_norm was given; stores that of its weight.
Bounded latent_norm_backward(const MoEConfig& c, const NamedTensors& tensors, const Bounded& x,
                             const Bounded& d, RankRows ranks, std::map<std::string, BoundedTensor>& grads) {
  const Bounded weight = load(require(tensors, "params/latent_norm.weight"), 0, 1, x.cols, x.dtype);
  RMSNormBackward back = rms_norm_backward(x, weight, c.latent_norm_eps, 1.0, d);
  put_gradient(tensors, "latent_norm.weight", bias_gradient(back.weight_rows, x.dtype, x.dtype, ranks),
               grads);
  return std::move(back.x);
}

}  // namespace

void add_mlp_gradients(const NamedTensors& tensors, MLPParams g, const std::string& prefix,
                       std::map<std::string, BoundedTensor>& grads) {
  const auto put = [&](const char* name, std::optional<Bounded> gradient) {
    if (gradient) put_gradient(tensors, prefix + name, *std::move(gradient), grads);
  };
  put("gate_proj.weight", std::move(g.gate_weight));
  put("gate_proj.bias", std::move(g.gate_bias));
  put("up_proj.weight", std::move(g.up_weight));
  put("up_proj.bias", std::move(g.up_bias));
  put("down_proj.weight", std::move(g.down_weight));
  put("down_proj.bias", std::move(g.down_bias));
}

MoEForward moe_forward(const MoEConfig& c, const CallOptions& o, const NamedTensors& tensors,
                       const Bounded& x, const std::vector<bool>& mask, const GivenIds& given,
                       const ForcedStages& forced) {
  MoEForward f;
  if (o.fake_balanced_gate) {
    const FakeRouting fake = fake_balanced_gate(require(tensors, "inputs/x"), c, 0, o.fake_gate_noise);
    const auto ids = fake.indices.as<std::int64_t>();
    f.indices = given.indices ? *given.indices : std::vector<std::int64_t>(ids.begin(), ids.end());
    f.weights = fake_balanced_weights(fake, c.n_activated_experts, x.dtype);
  } else {
    f.gate = gate_forward(c, o, load_gate(c, o, tensors, "params/gate.", x.dtype), x, mask, given, forced);
    f.indices = f.gate->dispatched;
    f.weights = f.gate->weights;
  }
  forced.settle("outputs/weights", f.weights, {x.rows, c.n_activated_experts});

  f.latent = c.moe_latent_size ? fc1(c, tensors, x.dtype)(o, x) : x;
  if (c.latent_norm == LatentNorm::after_fc1) {
    f.not_normed = std::move(f.latent);
    f.latent = latent_norm(c, tensors, *f.not_normed);
  }
  f.latent = experts_tokens(c, std::move(f.latent));
  const ExpertsParams experts = find_experts(c, tensors, "params/experts.");
  const Routing routing{f.indices, f.weights, mask};
  if (o.parallel.ep_size > 1) {
    f.parallel = experts_forward_parallel(c, o, experts, f.latent, routing);
    f.routed = f.parallel->y;
  } else {
    f.experts = experts_forward(c, o, experts, f.latent, routing, {0, c.n_routed_experts}, forced);
    f.routed = f.experts->y;
  }
  // The type of fc1's output, to which fc2 would cast it.
  f.routed = cast(std::move(f.routed), x.dtype);
  if (c.normalises_routed()) {
    f.not_normed = std::move(f.routed);
    f.routed = latent_norm(c, tensors, *f.not_normed);
  }
  f.y = c.moe_latent_size ? fc2(c, tensors, x.dtype)(o, f.routed) : f.routed;

  if (c.n_shared_experts == 0) return f;
  const MLPConfig shared = shared_experts_config(c);
  f.shared = mlp_forward(shared, o, load_mlp(shared, tensors, "params/shared_experts.", x.dtype), x);
  Bounded z = f.shared->y;
  if (c.shared_expert_gate) {
    const Bounded weight = load(require(tensors, "params/shared_expert_gate.weight"), 0, 1, c.dim, x.dtype);
    const Bounded logit = linear(x, weight, nullptr, sums_of(x.dtype, o.float32_products), x.dtype);
    f.shared_gate = Bounded(x.rows, 1, x.dtype);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      f.shared_gate->set(t, sigmoid(logit.at(t)));
      for (std::int64_t d = 0; d < c.dim; ++d) z.set(t, d, f.shared_gate->at(t) * z.at(t, d));
    }
  }
  f.y = add(f.y, z);
  return f;
}

namespace {

/// Back through the shared experts and their gate; the gradients of x are appended to `terms`.
void shared_backward(const MoEConfig& c, const CallOptions& o, const NamedTensors& tensors, const Bounded& x,
                     const MoEForward& f, const Bounded& dy, RankRows ranks, std::vector<Bounded>& terms,
                     std::map<std::string, BoundedTensor>& grads) {
  const MLPConfig shared = shared_experts_config(c);
  Bounded dz = dy;
  if (f.shared_gate) {
    // z' = sigmoid(l) z: dz = dz' s, dl = s (1 - s) sum_d dz' z.
    dz = Bounded(dy.rows, dy.cols, x.dtype);
    Bounded d_logit(dy.rows, 1, x.dtype);
    for (std::int64_t t = 0; t < dy.rows; ++t) {
      const Real s = f.shared_gate->at(t);
      Sum d_gate(precision(accumulator(x.dtype)));
      for (std::int64_t d = 0; d < dy.cols; ++d) {
        d_gate += dy.at(t, d) * f.shared->y.at(t, d);
        dz.set(t, d, dy.at(t, d) * s);
      }
      d_logit.set(t, store(d_gate.total(), precision(x.dtype)) * (1.0 - s) * s);
    }
    const Bounded weight = load(require(tensors, "params/shared_expert_gate.weight"), 0, 1, c.dim, x.dtype);
    terms.push_back(
        linear_backward(o, tensors, x, weight, false, d_logit, ranks, "shared_expert_gate", grads));
  }
  MLPBackward back = mlp_backward(shared, o, load_mlp(shared, tensors, "params/shared_experts.", x.dtype), x,
                                  *f.shared, dz, ranks);
  add_mlp_gradients(tensors, std::move(back.params), "shared_experts.", grads);
  for (Bounded& term : back.x) terms.push_back(std::move(term));
}

}  // namespace

Bounded moe_backward(const MoEConfig& c, const CallOptions& o, const NamedTensors& tensors, const Bounded& x,
                     const std::vector<bool>& mask, const MoEForward& f, const Bounded& dy,
                     std::map<std::string, BoundedTensor>& grads) {
  const auto ranks = rank_offsets(o.parallel.size(), o.parallel.tokens_per_rank, x.rows);
  // The routed part: back through fc2, the experts, fc1.
  Bounded d_routed = c.moe_latent_size
                         ? linear_backward(o, tensors, f.routed, fc2(c, tensors, x.dtype).weight,
                                           c.expert_bias, dy, ranks, "fc2_latent_proj", grads)
                         : dy;
  if (c.normalises_routed())
    d_routed = latent_norm_backward(c, tensors, *f.not_normed, d_routed, ranks, grads);
  d_routed = cast(std::move(d_routed), f.latent.dtype);
  const ExpertsParams params = find_experts(c, tensors, "params/experts.");
  const Routing routing{f.indices, f.weights, mask};
  // The gradient of x is a sum in any order. A token's slots are terms of it, unless fc1 comes between, or a
  // cast: then their sum is one.
  const bool gated_sharing = f.shared && facts(c.shared_expert_activation).gated;
  const bool apart = c.moe_latent_size || f.latent.dtype != x.dtype;
  const std::int64_t others =
      apart ? 0 : f.gate.has_value() + f.shared.has_value() + gated_sharing + f.shared_gate.has_value();
  ExpertsBackward experts =
      f.parallel ? experts_backward_parallel(c, o, params, *f.parallel, d_routed, "experts.", grads, others)
                 : experts_backward(c, o, params, f.latent, routing, {0, c.n_routed_experts}, *f.experts,
                                    d_routed, "experts.", grads, others, ranks);
  experts.x = cast(std::move(experts.x), x.dtype);
  std::vector<Bounded> terms;
  if (c.latent_norm == LatentNorm::after_fc1)
    experts.x = latent_norm_backward(c, tensors, *f.not_normed, experts.x, ranks, grads);
  if (c.moe_latent_size)
    terms.push_back(linear_backward(o, tensors, x, fc1(c, tensors, x.dtype).weight, c.expert_bias, experts.x,
                                    ranks, "fc1_latent_proj", grads));

  if (f.gate) {
    const GateParams gate = load_gate(c, o, tensors, "params/gate.", x.dtype);
    GateBackward back = gate_backward(c, o, gate, x, mask, *f.gate, experts.weights);
    terms.push_back(std::move(back.x));
    if (c.train_gate) {
      grads["grads/gate.weight"] = to_result(std::move(back.weight), {c.n_routed_experts, c.dim});
      if (back.bias) grads["grads/gate.bias"] = to_result(*std::move(back.bias), {c.n_routed_experts});
      if (back.scale)
        grads["grads/gate.per_expert_scale"] = to_result(*std::move(back.scale), {c.n_routed_experts});
      if (back.input_scale)
        grads["grads/gate.input_scale"] = to_result(*std::move(back.input_scale), {c.dim});
    }
  }
  if (f.shared) shared_backward(c, o, tensors, x, f, dy, ranks, terms, grads);

  if (c.moe_latent_size) return add_in_any_order(terms, x.dtype);
  if (terms.empty()) return std::move(experts.x);
  if (apart) terms.push_back(experts.x);
  std::vector<std::int64_t> slots;
  for (std::int64_t t = 0; t < x.rows; ++t)
    slots.push_back(mask[static_cast<std::size_t>(t)] ? c.n_activated_experts : 0);
  if (apart) return add_in_any_order(terms, x.dtype, slots);
  PartSum dx(add_in_any_order(terms, x.dtype, slots));
  for (std::int64_t t = 0; t < x.rows; ++t) dx.add(t, experts.x, t);
  return std::move(dx).total();
}

}  // namespace moeref
