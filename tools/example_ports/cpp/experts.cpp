#include "experts.hpp"

#include <algorithm>

#include "activation.hpp"

namespace example {
namespace {

/// Shapes, parameters and, in a backward pass, the gradients of the parameters.
struct Layer {
  long experts, k, dim, width, columns;
  bool weight_after_down;
  Activation activation;
  std::vector<float> up, down, up_bias, down_bias;
  std::vector<float> d_up, d_down, d_up_bias, d_down_bias;

  Layer(const Call& call, const std::string& prefix, const Matrix& x)
      : k(call.config.integer("n_activated_experts")),
        dim(x.cols),
        width(call.config.integer("moe_inter_dim")),
        weight_after_down(call.config.flag("apply_router_weight_after_down")),
        activation(Activation::of_experts(call.config)),
        up(call.floats("params/" + prefix + "gate_and_up_projs")),
        down(call.floats("params/" + prefix + "down_projs")) {
    columns = activation.columns(width);
    experts = static_cast<long>(up.size()) / (dim * columns);
    if (call.config.flag("expert_bias")) {
      up_bias = call.floats("params/" + prefix + "gate_up_proj_bias");
      down_bias = call.floats("params/" + prefix + "down_proj_bias");
    }
    // All experts' gradients start at zero: an expert without tokens has them, and nothing else.
    d_up.resize(up.size());
    d_down.resize(down.size());
    d_up_bias.resize(up_bias.size());
    d_down_bias.resize(down_bias.size());
  }

  bool biased() const { return !up_bias.empty(); }
};

/// The stages of all slots; rows of slots that go nowhere stay zero.
struct Stages {
  Matrix up, activation, down;
};

std::vector<long> slots_of(const Dispatch& to, long expert, long k) {
  std::vector<long> out;
  for (std::size_t slot = 0; slot < to.ids.size(); ++slot)
    if (to.ids[slot] == expert && to.real[slot / static_cast<std::size_t>(k)])
      out.push_back(static_cast<long>(slot));
  return out;
}

Matrix gather(const Matrix& from, const std::vector<long>& slots, long k) {
  Matrix out(static_cast<long>(slots.size()), from.cols);
  for (std::size_t i = 0; i < slots.size(); ++i)
    std::copy_n(from.row(slots[i] / k), from.cols, out.row(static_cast<long>(i)));
  return out;
}

void scatter(const Matrix& rows, const std::vector<long>& slots, Matrix& to) {
  for (std::size_t i = 0; i < slots.size(); ++i)
    std::copy_n(rows.row(static_cast<long>(i)), rows.cols, to.row(slots[i]));
}

/// What the forward pass of one expert leaves for the backward pass.
struct ExpertRows {
  Matrix x, h, act, weighted, out;
};

ExpertRows forward(const Layer& l, long expert, Matrix x, const std::vector<float>& p) {
  ExpertRows f;
  f.x = std::move(x);
  f.h = product(f.x, l.up.data() + expert * l.dim * l.columns, l.columns);
  if (l.biased()) add_row(f.h, l.up_bias.data() + expert * l.columns);
  store(f.h);
  f.act = Matrix(f.x.rows, l.width);
  for (long r = 0; r < f.x.rows; ++r) l.activation.forward(f.h.row(r), l.width, f.act.row(r));
  f.weighted = f.act;
  for (long r = 0; !l.weight_after_down && r < f.x.rows; ++r)
    for (long i = 0; i < l.width; ++i) f.weighted.at(r, i) *= p[static_cast<std::size_t>(r)];
  store(f.weighted);
  f.out = product(f.weighted, l.down.data() + expert * l.width * l.dim, l.dim);
  for (long r = 0; l.biased() && r < f.x.rows; ++r)
    for (long d = 0; d < l.dim; ++d)
      f.out.at(r, d) += l.down_bias[static_cast<std::size_t>(expert * l.dim + d)] *
                        (l.weight_after_down ? 1.0f : p[static_cast<std::size_t>(r)]);
  store(f.out);
  return f;
}

/// Gradients of this expert's parameters go to the layer's, those of its weights to `d_p`; returns those of
/// its rows.
Matrix backward(Layer& l, long expert, const ExpertRows& f, const std::vector<float>& p, const Matrix& dy,
                std::vector<float>& d_p) {
  Matrix d_out = dy;
  for (long r = 0; r < dy.rows; ++r)
    for (long d = 0; d < l.dim; ++d) {
      const float weight = p[static_cast<std::size_t>(r)];
      if (l.weight_after_down) {
        d_p[static_cast<std::size_t>(r)] += dy.at(r, d) * f.out.at(r, d);
        d_out.at(r, d) *= weight;
      }
      if (!l.biased()) continue;
      const auto bias = static_cast<std::size_t>(expert * l.dim + d);
      if (!l.weight_after_down) d_p[static_cast<std::size_t>(r)] += dy.at(r, d) * l.down_bias[bias];
      l.d_down_bias[bias] += l.weight_after_down ? d_out.at(r, d) : dy.at(r, d) * weight;
    }
  store(d_out);
  add_outer(f.weighted, d_out, l.d_down.data() + expert * l.width * l.dim);
  Matrix d_act = product_transposed(d_out, l.down.data() + expert * l.width * l.dim, l.width);
  store(d_act);
  Matrix d_h(f.x.rows, l.columns);
  for (long r = 0; r < f.x.rows; ++r) {
    for (long i = 0; !l.weight_after_down && i < l.width; ++i) {
      d_p[static_cast<std::size_t>(r)] += d_act.at(r, i) * f.act.at(r, i);
      d_act.at(r, i) *= p[static_cast<std::size_t>(r)];
    }
    l.activation.backward(f.h.row(r), l.width, d_act.row(r), d_h.row(r));
  }
  store(d_h);
  add_outer(f.x, d_h, l.d_up.data() + expert * l.dim * l.columns);
  if (l.biased()) add_rows(d_h, l.d_up_bias.data() + expert * l.columns);
  return product_transposed(d_h, l.up.data() + expert * l.dim * l.columns, l.dim);
}

}  // namespace

Matrix run_own_experts(const Call& call, const std::string& prefix, long first, const Matrix& x,
                       const Dispatch& to, const Matrix* dy, ExpertGradients* gradients) {
  Layer l(call, prefix, x);
  const long slots = x.rows * l.k;
  Stages stages{Matrix(slots, l.columns), Matrix(slots, l.width), Matrix(slots, l.dim)};
  Matrix y(x.rows, l.dim), d_x(x.rows, l.dim), d_weights(x.rows, l.k);
  for (long expert = 0; expert < l.experts; ++expert) {
    const std::vector<long> mine = slots_of(to, first + expert, l.k);
    if (mine.empty()) continue;
    std::vector<float> p;
    for (const long slot : mine) p.push_back(to.weights.v[static_cast<std::size_t>(slot)]);
    const ExpertRows f = forward(l, expert, gather(x, mine, l.k), p);
    scatter(f.h, mine, stages.up);
    scatter(f.weighted, mine, stages.activation);
    scatter(f.out, mine, stages.down);
    for (std::size_t i = 0; i < mine.size(); ++i)
      for (long d = 0; d < l.dim; ++d)
        y.at(mine[i] / l.k, d) += f.out.at(static_cast<long>(i), d) * (l.weight_after_down ? p[i] : 1.0f);
    if (!dy) continue;
    std::vector<float> d_p(mine.size());
    const Matrix d_rows = backward(l, expert, f, p, gather(*dy, mine, l.k), d_p);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      d_weights.v[static_cast<std::size_t>(mine[i])] = d_p[i];
      for (long d = 0; d < l.dim; ++d) d_x.at(mine[i] / l.k, d) += d_rows.at(static_cast<long>(i), d);
    }
  }
  call.write("stages/up_projection", stages.up);
  call.write("stages/activation", stages.activation);
  call.write("stages/down_projection", stages.down);
  if (!dy) return y;
  // Expert-parallel ranks have seen all tokens here.
  const bool complete = call.options.integer("ep_size") > 1;
  const auto write = [&](const char* name, const std::vector<float>& gradient) {
    if (complete)
      call.write("grads/" + prefix + name, gradient);
    else
      call.write_total("grads/" + prefix + name, gradient);
  };
  write("gate_and_up_projs", l.d_up);
  write("down_projs", l.d_down);
  if (l.biased()) {
    write("gate_up_proj_bias", l.d_up_bias);
    write("down_proj_bias", l.d_down_bias);
  }
  *gradients = {std::move(d_x), std::move(d_weights)};
  return y;
}

}  // namespace example
