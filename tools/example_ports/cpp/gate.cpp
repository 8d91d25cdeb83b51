#include "gate.hpp"

#include <algorithm>
#include <cmath>

#include "activation.hpp"
#include "selection.hpp"

namespace example {
namespace {

constexpr float kEpsilon = 1e-20f;

bool normalises(const GateConfig& c) { return c.normalise && c.k > 1; }

void softmax(const float* z, long n, float* out) {
  const float largest = *std::max_element(z, z + n);
  float sum = 0.0f;
  for (long i = 0; i < n; ++i) sum += out[i] = std::exp(z[i] - largest);
  for (long i = 0; i < n; ++i) out[i] /= sum;
}

float sum_of(const float* values, long n) {
  float sum = 0.0f;
  for (long i = 0; i < n; ++i) sum += values[i];
  return sum;
}

std::vector<float> correction_of(const Call& call, const std::string& prefix) {
  const std::string name = "params/" + prefix + "e_score_correction_bias";
  return call.has(name) ? call.floats(name) : std::vector<float>();
}

/// f_i, P_i and their product, summed (all real tokens of all ranks are one sequence).
void auxiliary_loss(const GateConfig& c, const Ranks& ranks, const std::vector<bool>& real, Routing& r) {
  std::vector<std::int64_t> tokens{std::count(real.begin(), real.end(), true)};
  ranks.sum(tokens);
  const float n = std::max<float>(1.0f, static_cast<float>(tokens[0]));
  std::vector<float> sums(static_cast<std::size_t>(c.experts));
  for (long t = 0; t < r.scores.rows; ++t)
    for (long e = 0; e < c.experts && real[static_cast<std::size_t>(t)]; ++e)
      sums[static_cast<std::size_t>(e)] += r.scores.at(t, e);
  ranks.sum(sums);
  r.loss_slope.resize(static_cast<std::size_t>(c.experts));
  for (long e = 0; e < c.experts; ++e) {
    const auto i = static_cast<std::size_t>(e);
    const float f =
        static_cast<float>(r.load[i]) * static_cast<float>(c.experts) / (static_cast<float>(c.k) * n);
    r.aux_loss += f * (sums[i] / n);
    r.loss_slope[i] = f / n;
  }
}

}  // namespace

GateConfig::GateConfig(const Call& call)
    : experts(call.config.integer("n_routed_experts")),
      k(call.config.integer("n_activated_experts")),
      groups(call.config.integer("n_expert_groups")),
      limited_groups(call.config.integer("n_limited_groups")),
      softmax(call.config.text("score_func") == "softmax"),
      softmax_first(call.config.flag("softmax_before_topk")),
      normalise(call.config.flag("norm_topk_prob")),
      biased_weights(call.config.flag("router_weight_uses_score_correction_bias")),
      float_weights(call.config.flag("router_weights_fp32")),
      training_loss(call.options.flag("training") && call.config.number("aux_loss_coeff") > 0.0f),
      route_scale(call.config.number("route_scale")),
      aux_coefficient(call.config.number("aux_loss_coeff") * call.options.number("aux_loss_backward_scale")) {
  const std::string scores = call.config.text("score_func");
  need(scores == "softmax" || scores == "sigmoid", "no score function " + scores);
  const bool precise =
      !call.options.null("gate_precision") && call.options.text("gate_precision") == "float64";
  need(!precise, "no gate in float64");
}

Routing route(const Call& call, const GateConfig& c, const std::string& prefix, const Matrix& x,
              const std::vector<bool>& real) {
  const long tokens = x.rows, e = c.experts, k = c.k;
  Routing r;
  r.logits = product_transposed(x, call.floats("params/" + prefix + "weight").data(), e);
  if (call.has("params/" + prefix + "bias"))
    add_row(r.logits, call.floats("params/" + prefix + "bias").data());
  const bool fine = !call.options.null("gate_precision") && call.options.text("gate_precision") == "float32";
  if (!fine) store(r.logits);
  const std::vector<float> correction = correction_of(call, prefix);
  const std::vector<std::int64_t> given = call.has("inputs/replay_indices")
                                              ? call.integers("inputs/replay_indices")
                                              : std::vector<std::int64_t>();

  r.plain = Matrix(tokens, e);
  r.weights = Matrix(tokens, k);
  r.load.resize(static_cast<std::size_t>(e));
  std::vector<float> choice(static_cast<std::size_t>(e));
  for (long t = 0; t < tokens; ++t) {
    const float* z = r.logits.row(t);
    float* scores = r.plain.row(t);
    if (c.softmax)
      softmax(z, e, scores);
    else
      for (long i = 0; i < e; ++i) scores[i] = sigmoid(z[i]);
    for (long i = 0; i < e; ++i) {
      choice[static_cast<std::size_t>(i)] = c.softmax ? (c.softmax_first ? scores[i] : z[i]) : scores[i];
      if (c.softmax || correction.empty()) continue;
      choice[static_cast<std::size_t>(i)] += correction[static_cast<std::size_t>(i)];
      if (c.biased_weights) scores[i] = choice[static_cast<std::size_t>(i)];
    }
    if (!c.softmax && c.groups > 1)
      keep_best_groups(choice, c.groups, c.limited_groups, correction.empty() ? 1 : 2);
    const std::vector<std::int64_t> ids =
        given.empty() ? largest(choice, k)
                      : std::vector<std::int64_t>(given.begin() + t * k, given.begin() + (t + 1) * k);
    for (long j = 0; j < k; ++j) {
      const std::int64_t id = ids[static_cast<std::size_t>(j)];
      r.weights.at(t, j) = c.softmax && !c.softmax_first ? z[id] : scores[id];
      r.ids.push_back(id);
      if (real[static_cast<std::size_t>(t)] && std::find(ids.begin(), ids.begin() + j, id) == ids.begin() + j)
        ++r.load[static_cast<std::size_t>(id)];
    }
    if (c.softmax && !c.softmax_first) softmax(r.weights.row(t), k, r.weights.row(t));
  }

  r.scores = r.plain;
  for (long t = 0; t < tokens; ++t) {
    if (normalises(c)) {
      const float all = sum_of(r.plain.row(t), e) + kEpsilon, chosen = sum_of(r.weights.row(t), k) + kEpsilon;
      for (long i = 0; i < e; ++i) r.scores.at(t, i) /= all;
      for (long j = 0; j < k; ++j) r.weights.at(t, j) /= chosen;
    }
    for (long j = 0; j < k; ++j) r.weights.at(t, j) *= c.route_scale;
  }
  call.ranks.sum(r.load);
  if (c.training_loss) auxiliary_loss(c, call.ranks, real, r);
  if (!c.float_weights) store(r.weights);
  return r;
}

Matrix route_backward(const Call& call, const GateConfig& c, const std::string& prefix, const Matrix& x,
                      const std::vector<bool>& real, const Routing& r, const Matrix& d_weights) {
  const long tokens = x.rows, e = c.experts, k = c.k;
  const bool after = c.softmax && !c.softmax_first;
  Matrix d_logits(tokens, e);
  for (long t = 0; t < tokens; ++t) {
    const std::int64_t* ids = r.ids.data() + t * k;
    // Of the k chosen values, before normalisation and scale.
    std::vector<float> chosen(static_cast<std::size_t>(k)), d_chosen(chosen),
        d_scores(static_cast<std::size_t>(e));
    for (long j = 0; j < k; ++j) d_chosen[static_cast<std::size_t>(j)] = d_weights.at(t, j) * c.route_scale;
    if (after) {
      std::vector<float> z(chosen.size());
      for (long j = 0; j < k; ++j) z[static_cast<std::size_t>(j)] = r.logits.at(t, ids[j]);
      softmax(z.data(), k, chosen.data());
    } else {
      for (long j = 0; j < k; ++j) chosen[static_cast<std::size_t>(j)] = r.plain.at(t, ids[j]);
    }
    if (normalises(c)) {
      const float all = sum_of(chosen.data(), k) + kEpsilon;
      float along = 0.0f;
      for (std::size_t j = 0; j < chosen.size(); ++j) along += d_chosen[j] * (chosen[j] / all);
      for (float& d : d_chosen) d = (d - along) / all;
    }
    // Of the scores: what the auxiliary loss adds, on real tokens alone.
    if (c.training_loss && real[static_cast<std::size_t>(t)]) {
      for (long i = 0; i < e; ++i)
        d_scores[static_cast<std::size_t>(i)] = c.aux_coefficient * r.loss_slope[static_cast<std::size_t>(i)];
      if (normalises(c)) {
        const float all = sum_of(r.plain.row(t), e) + kEpsilon;
        float along = 0.0f;
        for (long i = 0; i < e; ++i) along += d_scores[static_cast<std::size_t>(i)] * r.scores.at(t, i);
        for (float& d : d_scores) d = (d - along) / all;
      }
    }
    float* dz = d_logits.row(t);
    if (after) {
      float along = 0.0f;
      for (std::size_t j = 0; j < chosen.size(); ++j) along += d_chosen[j] * chosen[j];
      for (long j = 0; j < k; ++j)
        dz[ids[j]] += chosen[static_cast<std::size_t>(j)] * (d_chosen[static_cast<std::size_t>(j)] - along);
    } else {
      for (long j = 0; j < k; ++j)
        d_scores[static_cast<std::size_t>(ids[j])] += d_chosen[static_cast<std::size_t>(j)];
    }
    float along = 0.0f;
    for (long i = 0; c.softmax && i < e; ++i)
      along += d_scores[static_cast<std::size_t>(i)] * r.plain.at(t, i);
    for (long i = 0; i < e; ++i) {
      const float d = d_scores[static_cast<std::size_t>(i)],
                  s = c.softmax ? r.plain.at(t, i) : sigmoid(r.logits.at(t, i));
      dz[i] += c.softmax ? s * (d - along) : d * s * (1.0f - s);
    }
  }
  if (call.config.flag("train_gate")) {
    Matrix d_weight(e, x.cols);
    add_outer(d_logits, x, d_weight.v.data());
    call.write_total("grads/" + prefix + "weight", d_weight.v);
    std::vector<float> d_bias(static_cast<std::size_t>(e));
    add_rows(d_logits, d_bias.data());
    if (call.has("params/" + prefix + "bias")) call.write_total("grads/" + prefix + "bias", d_bias);
  }
  return product(d_logits, call.floats("params/" + prefix + "weight").data(), x.cols);
}

void write_routing(const Call& call, const Routing& r) {
  call.write("outputs/weights", r.weights);
  call.write("outputs/indices", r.ids);
  call.write("outputs/expert_load", r.load);
  call.write("outputs/aux_loss", std::vector<float>{r.aux_loss});
  call.write("stages/logits", r.logits);
  call.write("stages/scores", r.scores);
}

}  // namespace example
