// A layer is the sum of its parts: one expert is a dense MLP, shared experts are another one, latent
// projections stand before and behind the experts.
#include <algorithm>
#include <cmath>

#include "moeref/config.hpp"
#include "moeref/verdict.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// x and the cotangent, where there is one.
void copy_rows(const Call& from, Call& to) {
  for (const char* same : {"inputs/x", "cotangents/y"})
    if (const Tensor* tensor = find(from.tensors, same)) to.tensors[same] = *tensor;
}

/// An experts call of one expert as an MLP call: Linear weights are the transposes.
Call as_mlp(const Call& experts, const Descriptor& d) {
  Call out{Component::mlp, to_json(mlp_config(d)), options_of_products(experts), {}, experts.backward};
  const bool gated = facts(d.activation).gated;
  const Tensor& up = experts.tensors.at("params/gate_and_up_projs");
  const std::int64_t columns = gated ? 2 * d.I : d.I;
  copy_rows(experts, out);
  const auto linear = [&](const char* name, const Tensor& from, std::int64_t stride, std::int64_t first,
                          std::int64_t rows, std::int64_t cols) {
    Tensor& to = out.tensors[name] = Tensor(from.dtype(), cols == 0 ? Shape{rows} : Shape{rows, cols});
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < std::max<std::int64_t>(cols, 1); ++c)
        to.set(r * std::max<std::int64_t>(cols, 1) + c, from[c * stride + first + r]);
  };
  if (gated) linear("params/gate_proj.weight", up, columns, 0, d.I, d.D);
  linear("params/up_proj.weight", up, columns, gated ? d.I : 0, d.I, d.D);
  linear("params/down_proj.weight", experts.tensors.at("params/down_projs"), d.D, 0, d.D, d.I);
  if (!d.expert_bias) return out;
  const Tensor& bias = experts.tensors.at("params/gate_up_proj_bias");
  if (gated) linear("params/gate_proj.bias", bias, 0, 0, d.I, 0);
  linear("params/up_proj.bias", bias, 0, gated ? d.I : 0, d.I, 0);
  linear("params/down_proj.bias", experts.tensors.at("params/down_proj_bias"), 0, 0, d.D, 0);
  return out;
}

void dense_mlp(Implementation& impl, const Descriptor& d) {
  Call call = full_call(impl, d);
  Tensor& weights = call.tensors.at("inputs/weights");
  weights = filled(weights.dtype(), weights.shape(), 1.0);
  const Answer a(impl, call), b(impl, as_mlp(call, d));
  constexpr std::string_view text = "one expert of weight 1 against a dense MLP";
  expect_same(a, b, "outputs/y", text);
  if (!call.backward) return;
  expect_same(a, b, "grads/x", text);
  // grad[r, c] of a Linear is grad[c, first + r] of the expert.
  const auto transposed = [&](const std::string& expert, std::int64_t stride, std::int64_t first,
                              const std::string& linear, std::int64_t cols) {
    if (!b.has(linear)) return;
    for (std::int64_t i = 0; i < b[linear].size(); ++i) {
      const std::int64_t j = i % cols * stride + first + i / cols;
      if (a.at(expert, j) != b.at(linear, i))
        expect_near(expert, j, a.at(expert, j), b.at(linear, i), a.bound(expert, j) + b.bound(linear, i),
                    text);
    }
  };
  const bool gated = facts(d.activation).gated;
  const std::int64_t columns = gated ? 2 * d.I : d.I, up = gated ? d.I : 0;
  transposed("grads/gate_and_up_projs", columns, 0, "grads/gate_proj.weight", d.D);
  transposed("grads/gate_and_up_projs", columns, up, "grads/up_proj.weight", d.D);
  transposed("grads/down_projs", d.D, 0, "grads/down_proj.weight", d.I);
  transposed("grads/gate_up_proj_bias", 0, 0, "grads/gate_proj.bias", 1);
  transposed("grads/gate_up_proj_bias", 0, up, "grads/up_proj.bias", 1);
  transposed("grads/down_proj_bias", 0, 0, "grads/down_proj.bias", 1);
}

void arrange_dense(Descriptor& d) {
  d.E = d.k = 1;
  d.ranks = 1;
  d.mask = Mask::absent;
  d.weights_fp32 = false;
  if (d.activation != ActivationKind::relu2) d.activation = ActivationKind::swiglu;
  if (d.ids == Ids::absent_slots) d.ids = Ids::distinct;
}

/// The shared experts of a layer as an MLP call.
Call shared_mlp(const Call& call) {
  const MLPConfig shared = shared_experts_config(parse_moe_config(call.config));
  Call out{Component::mlp, to_json(shared), options_of_products(call), {}, call.backward};
  copy_rows(call, out);
  const std::string prefix = "params/shared_experts.";
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with(prefix)) out.tensors["params/" + name.substr(prefix.size())] = tensor;
  return out;
}

/// output = routed + sigmoid(x w) shared(x), for masked tokens too.
void shared_adds(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call routed = with_config(call, {{"n_shared_experts", 0}, {"shared_expert_gate", false}});
  std::erase_if(routed.tensors, [](const auto& entry) { return entry.first.starts_with("params/shared_"); });
  const Answer a(impl, call), b(impl, routed), c(impl, shared_mlp(call));
  const Tensor& x = call.tensors.at("inputs/x");
  for (std::int64_t t = 0; t < d.T; ++t) {
    double logit = 0.0;
    for (std::int64_t i = 0; i < d.D && d.shared_gate; ++i)
      logit += x[t * d.D + i] * call.tensors.at("params/shared_expert_gate.weight")[i];
    const double s = d.shared_gate ? 1.0 / (1.0 + std::exp(-logit)) : 1.0;
    for (std::int64_t i = t * d.D; i < (t + 1) * d.D; ++i) {
      const double want = b.at("outputs/y", i) + s * c.at("outputs/y", i);
      const double size = std::abs(b.at("outputs/y", i)) + std::abs(c.at("outputs/y", i));
      expect_near(
          "outputs/y", i, a.at("outputs/y", i), want,
          a.bound("outputs/y", i) + b.bound("outputs/y", i) + s * c.bound("outputs/y", i) + 1e-13 * size,
          "shared experts add to the routed output");
    }
  }
  for (const auto& [name, tensor] : b.results())
    if (name.starts_with("grads/") && name != "grads/x")
      expect_same(a, b, name, "shared experts do not touch the gradients of routed ones");
  if (d.shared_gate || !call.backward) return;
  Combination().add(b).add(c).expect(a, "grads/x", "gradients of x of both parts add up");
  for (const auto& [name, tensor] : c.results()) {
    if (!name.starts_with("grads/") || name == "grads/x") continue;
    const std::string shared = "grads/shared_experts." + name.substr(std::string("grads/").size());
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      if (a.at(shared, i) != tensor[i])
        expect_near(shared, i, a.at(shared, i), tensor[i], a.bound(shared, i) + c.bound(name, i),
                    "shared experts are an MLP on the whole of x");
  }
}

void arrange_shared(Descriptor& d) {
  arrange_given_routing(d);
  d.shared = std::max<std::int64_t>(d.shared, 1);
}

void arrange_shared_situ(Descriptor& d) {
  arrange_shared(d);
  d.activation = ActivationKind::situ;
  d.shared_relu2 = d.shared_gate = false;
  const double betas[][2] = {{1.0, 2.0}, {0.5, 9.0}, {2.5, 0.0}};
  d.config.situ_beta = betas[d.seed % 3][0], d.config.situ_linear_beta = betas[d.seed % 3][1];
}

/// rows of a [T, n] times b, [n, m] or transposed [m, n], in double.
std::vector<double> product(const std::vector<double>& a, std::int64_t n, const Tensor& b, std::int64_t m,
                            bool transposed) {
  std::vector<double> out;
  for (std::size_t first = 0; first < a.size(); first += static_cast<std::size_t>(n))
    for (std::int64_t c = 0; c < m; ++c) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < n; ++i)
        sum += a[first + static_cast<std::size_t>(i)] * b[transposed ? c * n + i : i * m + c];
      out.push_back(sum);
    }
  return out;
}

/// Of small integers, which the dtype must hold.
Tensor exactly(DType dtype, Shape shape, const std::vector<double>& values) {
  Tensor out = Tensor::of(std::move(shape), std::span<const double>(values)).cast(dtype);
  if (out.doubles() != values) throw Discarded("a projection is too large for the dtype");
  return out;
}

/// A latent layer is fc2 of experts on fc1 of x; on integers the projections are exact.
void latent_projections(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::int64_t latent = d.latent;
  const Tensor &fc1 = call.tensors.at("params/fc1_latent_proj.weight"),
               &fc2 = call.tensors.at("params/fc2_latent_proj.weight"), &x = call.tensors.at("inputs/x");
  const Tensor *bias1 = find(call.tensors, "params/fc1_latent_proj.bias"),
               *bias2 = find(call.tensors, "params/fc2_latent_proj.bias");
  std::vector<double> projected = product(x.doubles(), d.D, fc1, latent, true);
  for (std::size_t i = 0; bias1 && i < projected.size(); ++i)
    projected[i] += (*bias1)[static_cast<std::int64_t>(i) % latent];
  Call inner{Component::experts, call.config, options_of_products(call), {}, call.backward};
  inner.tensors["inputs/x"] = exactly(d.dtype, {d.T, latent}, projected);
  if (const Tensor* dy = find(call.tensors, "cotangents/y"))
    inner.tensors["cotangents/y"] =
        exactly(d.dtype, {d.T, latent}, product(dy->doubles(), d.D, fc2, latent, false));
  inner.tensors["inputs/indices"] =
      Tensor::of({d.T, d.k}, std::span<const double>(dealt_ids(call))).cast(DType::int64);
  inner.tensors["inputs/weights"] =
      filled(d.weights_fp32 ? DType::float32 : d.dtype, {d.T, d.k}, 1.0 / static_cast<double>(d.k));
  Tensor& mask = inner.tensors["inputs/token_mask"] = Tensor(DType::boolean, {d.T});
  for (std::int64_t t = 0; t < d.T; ++t) mask.set(t, is_live(call, t));
  for (const std::string_view tensor : kExpertTensors)
    if (const Tensor* param = find(call.tensors, expert_tensor(Component::moe, "params", tensor)))
      inner.tensors[expert_tensor(Component::experts, "params", tensor)] = *param;

  const Answer a(impl, call), b(impl, inner);
  for (std::int64_t i = 0; i < d.T * d.D; ++i) {
    double want = bias2 ? (*bias2)[i % d.D] : 0.0, bound = a.bound("outputs/y", i) + 1e-14 * std::abs(want);
    for (std::int64_t l = 0; l < latent; ++l) {
      const double weight = fc2[i % d.D * latent + l], y = b.at("outputs/y", i / d.D * latent + l);
      want += weight * y;
      bound += std::abs(weight) * (b.bound("outputs/y", i / d.D * latent + l) + 1e-14 * std::abs(y));
    }
    expect_near("outputs/y", i, a.at("outputs/y", i), want, bound, "fc2 of experts on fc1 of x");
  }
  for (const std::string_view tensor : kExpertTensors) {
    const std::string outer = expert_tensor(Component::moe, "grads", tensor),
                      alone = expert_tensor(Component::experts, "grads", tensor);
    for (std::int64_t i = 0; b.has(alone) && i < b[alone].size(); ++i)
      if (a.at(outer, i) != b.at(alone, i))
        expect_near(outer, i, a.at(outer, i), b.at(alone, i), a.bound(outer, i) + b.bound(alone, i),
                    "the experts' own gradients under fc2's cotangent");
  }
}

void arrange_latent(Descriptor& d) {
  d.fake_gate = true;  // weights 1 / k
  arrange_given_routing(d);
  d.k = d.k >= 4 ? 4 : d.k >= 2 ? 2 : 1;
  d.latent = std::max<std::int64_t>(d.latent, 1);
  d.shared = 0;
  d.values = Values::exact;
  d.D = std::min<std::int64_t>(d.D, 16);
}

/// A latent size of dim itself: x and its projection have the same shape, and each part must take the right
/// one.
void latent_of_dim(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, full_call(impl, d));
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;
  const CaseVerdict verdict = judge(a.call(), a.results(), options);
  if (const TensorVerdict* t = verdict.first_failure())
    fail({t->tensor, t->index, t->value, t->reference, t->bound,
          "the latent size is dim; gate and shared experts read x, routed experts its projection: " +
              t->finding});
}

void arrange_latent_of_dim(Descriptor& d) {
  d.fake_gate = false;
  d.noise = 0.0;
  d.replay = false;
  d.T = std::max<std::int64_t>(d.T, 1);
  d.mask = Mask::absent;
  d.shared = std::max<std::int64_t>(d.shared, 1);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
  d.D = std::min<std::int64_t>(d.D, 16);
  d.E = std::min<std::int64_t>(d.E, 16);
  d.D = d.latent = std::max(d.D, d.E);
}

const Property kLayerPartProperties[] = {
    {"P44",
     "dense_mlp",
     {Component::experts},
     PropertyClass::bounded,
     "one expert of weight 1 is a dense MLP, gradients included",
     {"O9", "transposed weights", "A32"},
     arrange_dense,
     dense_mlp,
     Passes::either},
    {"P44",
     "shared_adds",
     {Component::moe},
     PropertyClass::bounded,
     "shared experts, with their gate, add an MLP of x to the routed output, masked or not",
     {"O8", "O14", "O15", "A32"},
     arrange_shared,
     shared_adds,
     Passes::either},
    {"C9",
     "shared_situ",
     {Component::moe},
     PropertyClass::bounded,
     "shared experts whose activation is situ add an MLP of situ with the layer's bounds",
     {"the usual activation or bounds in shared experts"},
     arrange_shared_situ,
     shared_adds,
     Passes::either},
    {"P44",
     "latent_projections",
     {Component::moe},
     PropertyClass::bounded,
     "a latent layer is fc2 of the experts on fc1 of x",
     {"A52", "latent bias lost", "masked bias"},
     arrange_latent,
     latent_projections,
     Passes::either},
    {"P44",
     "latent_of_dim",
     {Component::moe},
     PropertyClass::bounded,
     "with a latent size of dim, gate and shared experts still read x and routed experts its projection",
     {"gate sees latent rows", "shared experts see latent rows"},
     arrange_latent_of_dim,
     latent_of_dim,
     Passes::either},
};

}  // namespace

std::span<const Property> layer_part_properties() { return kLayerPartProperties; }

}  // namespace moeref
