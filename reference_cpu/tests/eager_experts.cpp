// The routed experts of the eager port: expert by expert, as the documented loop does, ranks one after the
// other.
#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {
namespace {

using Ids = std::vector<std::int64_t>;

constexpr double kSqrt2OverPi = 0.7978845608028654, kCubic = 0.044715;

struct GateUp {
  Row gate, up;
};

GateUp split(const MoEConfig& c, const Row& h) {
  GateUp out;
  const std::size_t half = h.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const bool interleaved = c.expert_activation == ActivationKind::quick_geglu;
    out.gate.push_back(h[interleaved ? 2 * i : i]);
    out.up.push_back(h[interleaved ? 2 * i + 1 : half + i]);
  }
  return out;
}

Num in_float(Num a) { return cast(a, common(a.t, DType::float32)); }

/// gelu in one kernel: computed in float, rounded once.
Num gelu(Num a) {
  const Num x = cast(a, wide(a.t));
  return cast(0.5 * x * (1.0 + tanh(kSqrt2OverPi * (x + kCubic * (x * x * x)))), a.t);
}
Num gelu_slope(Num x) {
  const Num t = tanh(kSqrt2OverPi * (x + kCubic * apply(x, [](auto v) { return v * v * v; })));
  const Num inner = kSqrt2OverPi * (1.0 + (3.0 * kCubic) * square(x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - square(t)) * inner;
}

/// gelu with erf and its gradient, one kernel each.
Num gelu_erf(Num a) {
  const Num x = cast(a, wide(a.t));
  return cast(0.5 * x * (1.0 + erf(x * 0.7071067811865476)), a.t);
}
Num gelu_erf_slope_times(Num d, Num a) {
  const Num x = cast(a, wide(a.t));
  const Num cdf = 0.5 * (1.0 + erf(x * 0.7071067811865476));
  const Num pdf = apply(x * x * -0.5, [](auto v) { return std::exp(v); }) * 0.3989422804014327;
  return cast(cast(d, wide(a.t)) * (cdf + x * pdf), common(d.t, a.t));
}

/// beta tanh(z / beta); z where beta is 0.
Num bounded(Num z, double beta) { return beta == 0.0 ? z : tanh(z / beta) * beta; }
/// Its gradient by automatic differentiation.
Num bounded_gradient(Num d, Num z, double beta) {
  if (beta == 0.0) return d;
  const Num t = tanh(z / beta);
  return d * beta * (1.0 - t * t) / beta;
}

bool is_gated(ActivationKind kind) {
  return kind != ActivationKind::relu2 && kind != ActivationKind::silu && kind != ActivationKind::gelu &&
         kind != ActivationKind::gelu_tanh && kind != ActivationKind::relu;
}

/// silu_backward, one kernel.
Num silu_slope_times(Num d, Num a) {
  const Num x = cast(a, wide(a.t)), s = sigmoid(x);
  return cast(cast(d, wide(a.t)) * s * (1.0 + x * (1.0 - s)), common(d.t, a.t));
}

double upper(const MoEConfig& c) {
  if (c.expert_activation == ActivationKind::swiglu) return c.swiglu_limit;
  const bool off = c.expert_activation == ActivationKind::swigluoai && c.activation_limit <= 0.0;
  return off ? INFINITY : c.activation_limit;
}

/// act(h) without the routing weight, of one gate and up.
Num value(const MoEConfig& c, Num g, Num u) {
  const double limit = upper(c);
  switch (c.expert_activation) {
    case ActivationKind::swiglu:
      if (c.swiglu_limit > 0.0 && c.clamp_after_activation)
        return clamp(silu(g), -INFINITY, limit) * clamp(u, -limit, limit);
      if (c.swiglu_limit > 0.0)
        return silu(clamp(in_float(g), -INFINITY, limit)) * clamp(in_float(u), -limit, limit);
      return silu(g) * u;
    case ActivationKind::swigluoai: {
      const Num gate = clamp(in_float(g), -INFINITY, limit), up = clamp(in_float(u), -limit, limit);
      return gate * sigmoid(c.activation_alpha * gate) * (up + 1.0);
    }
    case ActivationKind::quick_geglu: {
      const Num gate = clamp(g, -INFINITY, limit), up = clamp(u, -limit, limit);
      return gate * sigmoid(c.activation_alpha * gate) * (up + 1.0);
    }
    case ActivationKind::geglu:
      return gelu(g) * u;
    case ActivationKind::geglu_erf:
      return gelu_erf(g) * u;
    case ActivationKind::silu:
      return silu(u);
    case ActivationKind::gelu:
      return gelu_erf(u);
    case ActivationKind::gelu_tanh:
      return gelu(u);
    case ActivationKind::relu:
      return relu(u);
    case ActivationKind::situ:
      return cast(
          bounded(in_float(g), c.situ_beta) * sigmoid(in_float(g)) * bounded(in_float(u), c.situ_linear_beta),
          g.t);
    case ActivationKind::relu2:
      break;
  }
  return square(relu(u));
}

/// d of (gate, up) from d of the value.
std::pair<Num, Num> gradient(const MoEConfig& c, Num g, Num u, Num d) {
  const double limit = upper(c);
  switch (c.expert_activation) {
    case ActivationKind::swiglu: {
      if (c.swiglu_limit <= 0.0) {
        const Num s = sigmoid(g);
        return {d * s * (1.0 + g * (1.0 - s)) * u, d * silu(g)};
      }
      if (c.clamp_after_activation) {
        const Num gate = silu(g), clamped = clamp(u, -limit, limit);
        return {silu_slope_times(clamp_gradient(d * clamped, gate, -INFINITY, limit), g),
                clamp_gradient(d * clamp(gate, -INFINITY, limit), u, -limit, limit)};
      }
      const Num gate = clamp(in_float(g), -INFINITY, limit), up = clamp(in_float(u), -limit, limit);
      return {clamp_gradient(silu_slope_times(d * up, gate), in_float(g), -INFINITY, limit),
              clamp_gradient(d * silu(gate), in_float(u), -limit, limit)};
    }
    case ActivationKind::swigluoai:
    case ActivationKind::quick_geglu: {
      const bool fp32 = c.expert_activation == ActivationKind::swigluoai;
      const Num g0 = fp32 ? in_float(g) : g, u0 = fp32 ? in_float(u) : u;
      const Num gate = clamp(g0, -INFINITY, limit), up = clamp(u0, -limit, limit);
      const Num s = sigmoid(c.activation_alpha * gate), glu = gate * s;
      const Num d_glu = d * (up + 1.0), d_up = d * glu;
      const Num d_s = d_glu * gate, fine_s = cast(s, wide(s.t));
      const Num d_inner = cast(cast(d_s, wide(d_s.t)) * (1.0 - fine_s) * fine_s, common(d_s.t, s.t));
      const Num d_gate = d_glu * s + d_inner * c.activation_alpha;
      return {clamp_gradient(d_gate, g0, -INFINITY, limit), clamp_gradient(d_up, u0, -limit, limit)};
    }
    case ActivationKind::geglu:
      return {d * gelu_slope(g) * u, d * gelu(g)};
    case ActivationKind::geglu_erf:
      return {gelu_erf_slope_times(d * u, g), d * gelu_erf(g)};
    case ActivationKind::silu:
      return {{}, silu_slope_times(d, u)};
    case ActivationKind::gelu:
      return {{}, gelu_erf_slope_times(d, u)};
    case ActivationKind::gelu_tanh:
      return {{}, d * gelu_slope(u)};
    case ActivationKind::relu:
      return {{}, u.v > 0.0 ? d : Num{0.0, d.t}};
    case ActivationKind::situ: {
      const Num gate = in_float(g), up = in_float(u), s = sigmoid(gate);
      const Num in = bounded(gate, c.situ_beta), d_fine = in_float(d);
      const Num d_gate = d_fine * bounded(up, c.situ_linear_beta);
      return {bounded_gradient(d_gate * s, gate, c.situ_beta) + d_gate * in * (1.0 - s) * s,
              bounded_gradient(d_fine * (in * s), up, c.situ_linear_beta)};
    }
    case ActivationKind::relu2:
      break;
  }
  return {{}, u.v > 0.0 ? d * (relu(u) * 2.0) : Num{0.0, d.t}};
}

bool weighs_inside(const MoEConfig& c) {
  return !c.apply_router_weight_after_down && !c.router_weight_on_input;
}

/// One expert's rows on their way forward.
struct ExpertRows {
  Ids slots;
  Matrix x, h, a, o;
  Matrix up, down, up_bias, down_bias;
};

ExpertRows run_expert(const Workspace& w, const MoEConfig& c, const NamedTensors& tensors,
                      const std::string& prefix, std::int64_t e, const Matrix& x, const Routed& r, Ids slots,
                      DType weight_type) {
  const std::int64_t k = r.weights.cols, dim = c.expert_dim(), width = c.moe_inter_dim, up_dim = c.up_dim();
  const auto rows = static_cast<std::int64_t>(slots.size());
  const DType t = x.stored, held = w.activations == ActivationFormat::none ? t : wide(t);
  ExpertRows out;
  out.up = w.load(require(tensors, prefix + "gate_and_up_projs"), e * dim * up_dim, dim, up_dim, held);
  out.down = w.load(require(tensors, prefix + "down_projs"), e * width * dim, width, dim, held);
  if (c.expert_bias) {
    out.up_bias = w.load(require(tensors, prefix + "gate_up_proj_bias"), e * up_dim, 1, up_dim, t);
    out.down_bias = w.load(require(tensors, prefix + "down_proj_bias"), e * dim, 1, dim, t);
  }
  out.x = w.make(rows, dim, t);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t d = 0; d < dim; ++d) {
      const std::int64_t slot = slots[static_cast<std::size_t>(i)];
      const Num from = x.at(slot / k, d);
      out.x.set(i, d,
                c.router_weight_on_input ? from * cast(r.weights.at(slot / k, slot % k), weight_type) : from);
    }
  const auto product = [&](const Matrix& from, const Matrix& weights, const std::string& name) {
    if (!w.codes) return w.quantised_product(from, weights, t);
    return w.tensor_core_product(
        from, {require(*w.codes, prefix + name + "_codes"), require(*w.codes, prefix + name + "_scales"), e},
        t);
  };
  out.h = product(out.x, out.up, "gate_and_up_projs");
  out.a = w.make(rows, width, t);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t slot = slots[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; c.expert_bias && j < up_dim; ++j)
      out.h.set(i, j, out.h.at(i, j) + out.up_bias.at(0, j));
    const Num p =
        weighs_inside(c) ? cast(r.weights.at(slot / k, slot % k), weight_type) : Num{1.0, weight_type};
    const Row a = activate(c, out.h.row(i), p);
    for (std::int64_t j = 0; j < width; ++j) out.a.set(i, j, a[static_cast<std::size_t>(j)]);
  }
  const Matrix o = product(out.a, out.down, "down_projs");
  out.o = w.make(rows, dim, c.expert_bias ? common(t, weight_type) : t);
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t slot = slots[static_cast<std::size_t>(i)];
    const Num p = cast(r.weights.at(slot / k, slot % k), weight_type);
    for (std::int64_t d = 0; d < dim; ++d) {
      if (!c.expert_bias)
        out.o.set(i, d, o.at(i, d));
      else
        out.o.set(i, d,
                  o.at(i, d) + (weighs_inside(c) ? out.down_bias.at(0, d) * p : out.down_bias.at(0, d)));
    }
  }
  out.slots = std::move(slots);
  return out;
}

/// A slot whose expert is the identity, on its token's own rank: p x is rounded to x's type and added to y.
void return_input(const Workspace& w, const MoEConfig& c, const Matrix& x, const Routed& r, std::int64_t slot,
                  DType weight_type, const Matrix* dy, Matrix& y, Matrix& dx, Matrix& dweights) {
  const bool after = c.apply_router_weight_after_down;
  const std::int64_t k = r.weights.cols, token = slot / k, row = after ? slot : token;
  const DType type = after ? DType::float32 : weight_type;
  const Num p = cast(r.weights.at(token, slot % k), type);
  Row products;
  for (std::int64_t d = 0; d < x.cols; ++d) {
    const Num in = x.at(token, d);
    const Num term = after ? cast(in, type) * p : cast(in * p, w.o.fused ? wide(x.stored) : x.stored);
    y.set(row, d, y.at(row, d) + cast(term, DType::float32));
    if (!dy) continue;
    const Num above = cast(dy->at(token, d), DType::float32);
    const Num d_out = after ? above : cast(above, x.read);
    products.push_back(cast(in, type) * cast(d_out, type));
    dx.set(token, d, dx.at(token, d) + cast(d_out * p, x.read));
  }
  if (dy) dweights.set(token, slot % k, sum(products, type, w.o.order));
}

void put_expert(NamedTensors& out, const std::string& name, const Tensor& param, std::int64_t e,
                const Matrix& m) {
  Tensor& to = out.try_emplace(name, param.dtype(), param.shape()).first->second;
  const auto n = static_cast<std::int64_t>(m.v.size());
  for (std::int64_t i = 0; i < n; ++i) to.set(e * n + i, m.v[static_cast<std::size_t>(i)]);
}

}  // namespace

Row activate(const MoEConfig& c, const Row& h, Num p) {
  Row out;
  if (!is_gated(c.expert_activation)) {
    for (const Num u : h) out.push_back(value(c, {}, u) * p);
    return out;
  }
  const GateUp s = split(c, h);
  for (std::size_t i = 0; i < s.gate.size(); ++i) out.push_back(value(c, s.gate[i], s.up[i]) * p);
  return out;
}

Row activation_gradient(const MoEConfig& c, const Row& h, Num p, const Row& d, Order order, DType weight_type,
                        Num& d_p) {
  const bool gated = is_gated(c.expert_activation);
  const GateUp s = gated ? split(c, h) : GateUp{Row(h.size()), h};
  Row out(h.size()), products;
  for (std::size_t i = 0; i < d.size(); ++i) {
    // A value in float stays in it, as automatic differentiation of its product with the weight has it.
    const Num act = value(c, s.gate[i], s.up[i]);
    products.push_back(cast(act, common(act.t, common(d[i].t, weight_type))) * cast(d[i], weight_type));
    const auto [d_gate, d_up] = gradient(c, s.gate[i], s.up[i], d[i] * p);
    const bool interleaved = c.expert_activation == ActivationKind::quick_geglu;
    if (gated) out[interleaved ? 2 * i : i] = d_gate;
    out[!gated ? i : interleaved ? 2 * i + 1 : d.size() + i] = d_up;
  }
  d_p = sum(products, weight_type, order);
  return out;
}

/// Experts of another type than their tokens, between casts: on the way back of each part of x's gradient, as
/// where every expert casts its rows, or of their sum, as where all tokens are cast at once.
Matrix experts_in(DType t, const Workspace& w, const MoEConfig& c, const ParallelOptions& parallel,
                  const NamedTensors& tensors, const std::string& prefix, const Matrix& x, const Routed& r,
                  const Matrix* dy, std::vector<Matrix>& dx_parts, Matrix& dweights, NamedTensors& out) {
  const Matrix rounded = w.cast_to(x, t), d = dy ? w.cast_to(*dy, t) : Matrix();
  std::vector<Matrix> parts;
  const Matrix y =
      experts(w, c, parallel, tensors, prefix, rounded, r, dy ? &d : nullptr, parts, dweights, out);
  if (!w.o.weights_in_float && !parts.empty()) parts = {w.accumulated(parts, t)};
  for (const Matrix& part : parts) dx_parts.push_back(w.cast_to(part, x.stored));
  return w.cast_to(y, x.stored);
}

Matrix experts(const Workspace& w, const MoEConfig& c, const ParallelOptions& parallel,
               const NamedTensors& tensors, const std::string& prefix, const Matrix& x, const Routed& r,
               const Matrix* dy, std::vector<Matrix>& dx_parts, Matrix& dweights, NamedTensors& out) {
  if (c.expert_compute_dtype && x.stored != *c.expert_compute_dtype)
    return experts_in(*c.expert_compute_dtype, w, c, parallel, tensors, prefix, x, r, dy, dx_parts, dweights,
                      out);
  const DType t = x.stored, kFloat = DType::float32;
  const DType weight_type = w.o.weights_in_float || parallel.ep_size > 1 ? kFloat : r.weights.read;
  const std::int64_t k = r.weights.cols, dim = c.expert_dim(), ranks = parallel.ep_size,
                     e_count = c.n_routed_experts - c.n_identity_experts;
  const auto tokens = rank_offsets(ranks, parallel.tokens_per_rank, x.rows);
  const bool after = c.apply_router_weight_after_down;
  const std::string to = "grads/" + prefix.substr(prefix.find('/') + 1);
  dweights = w.make(x.rows, k, r.weights.stored);
  if (dy)
    for (const auto& [name, tensor] : tensors)
      if (name.starts_with(prefix) &&
          (name.find("projs") != std::string::npos || name.find("proj_bias") != std::string::npos))
        if (name.find('.', prefix.size()) == std::string::npos)
          out.try_emplace(to + name.substr(prefix.size()), tensor.dtype(), tensor.shape());

  std::vector<Matrix> y_ranks;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    // One row per slot where the weight comes after down, else one per token.
    Matrix y(after ? x.rows * k : x.rows, dim, kFloat, false);
    std::vector<Matrix> dx_experts;
    for (std::int64_t step = 0; step < e_count / ranks; ++step) {
      const std::int64_t local = w.o.order == Order::backward ? e_count / ranks - 1 - step : step;
      const std::int64_t e = rank * (e_count / ranks) + local;
      Ids slots;
      for (std::int64_t slot = 0; slot < x.rows * k; ++slot)
        if (r.ids[static_cast<std::size_t>(slot)] == e && r.mask[static_cast<std::size_t>(slot / k)])
          slots.push_back(slot);
      if (slots.empty()) continue;
      const ExpertRows f = run_expert(w, c, tensors, prefix, e, x, r, slots, weight_type);
      const auto rows = static_cast<std::int64_t>(slots.size());
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t slot = slots[static_cast<std::size_t>(i)], row = after ? slot : slot / k;
        for (std::int64_t d = 0; d < dim; ++d) {
          Num term = cast(f.o.at(i, d), kFloat);
          if (after) term = term * cast(r.weights.at(slot / k, slot % k), kFloat);
          y.set(row, d, y.at(row, d) + term);
        }
      }
      if (!dy) continue;

      Matrix d_out = w.make(rows, dim, f.o.stored), d_bias = w.make(rows, dim, f.o.stored);
      std::vector<Num> d_weight;
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t slot = slots[static_cast<std::size_t>(i)];
        const Num p = cast(r.weights.at(slot / k, slot % k), weight_type);
        Row products;
        for (std::int64_t d = 0; d < dim; ++d) {
          const Num above = cast(dy->at(slot / k, d), kFloat);
          d_out.set(i, d, after ? above * cast(p, kFloat) : above);
          if (after)
            products.push_back(above * cast(f.o.at(i, d), kFloat));
          else if (c.expert_bias && weighs_inside(c))
            products.push_back(d_out.at(i, d) * f.down_bias.at(0, d));
          d_bias.set(i, d, weighs_inside(c) ? d_out.at(i, d) * p : d_out.at(i, d));
        }
        d_weight.push_back(cast(
            products.empty() ? Num{0.0, weight_type} : sum(products, products[0].t, w.o.order), weight_type));
      }
      const Matrix d_o = w.cast_to(d_out, t);
      const Matrix d_act = w.multiply(d_o, false, f.down, true, t);
      Matrix dh = w.make(rows, c.up_dim(), t);
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t slot = slots[static_cast<std::size_t>(i)];
        const Num p =
            weighs_inside(c) ? cast(r.weights.at(slot / k, slot % k), weight_type) : Num{1.0, weight_type};
        Num d_p;
        const Row back = activation_gradient(c, f.h.row(i), p, d_act.row(i), w.o.order, weight_type, d_p);
        for (std::int64_t j = 0; j < c.up_dim(); ++j) dh.set(i, j, back[static_cast<std::size_t>(j)]);
        dweights.set(
            slot / k, slot % k,
            after ? d_weight[static_cast<std::size_t>(i)] : d_p + d_weight[static_cast<std::size_t>(i)]);
      }
      put_expert(out, to + "down_projs", require(tensors, prefix + "down_projs"), e,
                 w.multiply(f.a, true, d_o, false, t));
      put_expert(out, to + "gate_and_up_projs", require(tensors, prefix + "gate_and_up_projs"), e,
                 w.multiply(f.x, true, dh, false, t));
      if (c.expert_bias) {
        put_expert(out, to + "down_proj_bias", require(tensors, prefix + "down_proj_bias"), e,
                   w.sum_rows(d_bias));
        put_expert(out, to + "gate_up_proj_bias", require(tensors, prefix + "gate_up_proj_bias"), e,
                   w.sum_rows(dh));
      }
      Matrix dx_rows = w.multiply(dh, false, f.up, true, t);
      for (std::int64_t i = 0; c.router_weight_on_input && i < rows; ++i) {
        const std::int64_t slot = slots[static_cast<std::size_t>(i)];
        const Num p = cast(r.weights.at(slot / k, slot % k), weight_type);
        Row products;
        for (std::int64_t d = 0; d < dim; ++d) {
          products.push_back(x.at(slot / k, d) * cast(dx_rows.at(i, d), weight_type));
          dx_rows.set(i, d, dx_rows.at(i, d) * p);
        }
        dweights.set(slot / k, slot % k, sum(products, weight_type, w.o.order));
      }
      Matrix dx = w.make(x.rows, dim, t);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t d = 0; d < dim; ++d) {
          const std::int64_t token = slots[static_cast<std::size_t>(i)] / k;
          dx.set(token, d, dx.at(token, d) + dx_rows.at(i, d));
        }
      dx_experts.push_back(std::move(dx));
    }
    if (c.n_identity_experts > 0) {
      Matrix dx = w.make(x.rows, dim, t);
      for (std::int64_t slot = tokens[rank] * k; slot < tokens[rank + 1] * k; ++slot)
        if (r.ids[static_cast<std::size_t>(slot)] >= e_count &&
            r.ids[static_cast<std::size_t>(slot)] < c.n_routed_experts &&
            r.mask[static_cast<std::size_t>(slot / k)])
          return_input(w, c, x, r, slot, weight_type, dy, y, dx, dweights);
      if (dy) dx_experts.push_back(std::move(dx));
    }
    y_ranks.push_back(std::move(y));
    if (dx_experts.empty()) continue;
    if (ranks > 1)
      dx_parts.push_back(w.accumulated(dx_experts, t));
    else
      dx_parts.insert(dx_parts.end(), dx_experts.begin(), dx_experts.end());
  }
  const Matrix total = w.accumulated(y_ranks, kFloat);
  Matrix y = w.make(x.rows, dim, t);
  for (std::int64_t token = 0; token < x.rows; ++token)
    for (std::int64_t d = 0; d < dim; ++d) {
      Row terms;
      for (std::int64_t j = 0; j < (after ? k : 1); ++j)
        terms.push_back(total.at(after ? token * k + j : token, d));
      y.set(token, d, sum(terms, kFloat, w.o.order));
    }
  return y;
}

}  // namespace moeref::eager
