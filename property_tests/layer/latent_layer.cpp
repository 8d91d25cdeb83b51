#include "property_tests/layer/latent_layer.hpp"

#include <cmath>
#include <string>

#include "moeref/reference.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {
namespace {

/// a [n, k] times b, [k, m] or transposed [m, k].
Matrix matrix_times(const Matrix& a, const Matrix& b, bool transposed) {
  Matrix out{a.rows, transposed ? b.rows : b.cols, {}};
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < out.cols; ++c) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < a.cols; ++i) sum += a.at(r, i) * (transposed ? b.at(c, i) : b.at(i, c));
      out.values.push_back(sum);
    }
  return out;
}

/// a [t, n]^T times b [t, m].
Matrix gradient_by(const Matrix& a, const Matrix& b) {
  Matrix out{a.cols, b.cols, std::vector<double>(static_cast<std::size_t>(a.cols * b.cols))};
  for (std::int64_t t = 0; t < a.rows; ++t)
    for (std::int64_t r = 0; r < a.cols; ++r)
      for (std::int64_t c = 0; c < b.cols; ++c) out.at(r, c) += a.at(t, r) * b.at(t, c);
  return out;
}

Matrix sums_by_column(const Matrix& a) {
  return gradient_by(Matrix{a.rows, 1, std::vector<double>(static_cast<std::size_t>(a.rows), 1.0)}, a);
}

void add_to_rows(Matrix& m, const Tensor* row) {
  for (std::int64_t t = 0; row && t < m.rows; ++t)
    for (std::int64_t c = 0; c < m.cols; ++c) m.at(t, c) += (*row)[c];
}

Tensor in_double(const Matrix& m, Shape shape) {
  return Tensor::of(std::move(shape), std::span<const double>(m.values));
}

/// x over its root mean square, and back.
class LatentRootNorm {
 public:
  LatentRootNorm(const Matrix& x, const Matrix& weight, double eps, const LatentNormRule& rule)
      : given_(x), weight_(weight), rule_(rule), centred_(x) {
    for (std::int64_t t = 0; t < x.rows; ++t) {
      double mean = 0.0, squares = 0.0;
      for (std::int64_t c = 0; c < x.cols && rule.subtracts_mean; ++c)
        mean += x.at(t, c) / static_cast<double>(x.cols);
      for (std::int64_t c = 0; c < x.cols; ++c) {
        centred_.at(t, c) -= mean;
        squares += centred_.at(t, c) * centred_.at(t, c);
      }
      inverse_.push_back(1.0 / std::sqrt(squares / static_cast<double>(x.cols) + eps));
    }
  }
  Matrix forward() const {
    Matrix out = centred_;
    for (std::int64_t t = 0; t < out.rows; ++t)
      for (std::int64_t c = 0; c < out.cols; ++c) out.at(t, c) *= inverse(t) * weight_.at(0, c);
    return out;
  }
  /// The gradient of x; `to_weight` [1, C].
  Matrix backward(const Matrix& d, Matrix& to_weight) const {
    Matrix out = d;
    to_weight = {1, d.cols, std::vector<double>(static_cast<std::size_t>(d.cols))};
    for (std::int64_t t = 0; t < d.rows; ++t) {
      double inner = 0.0;
      for (std::int64_t c = 0; c < d.cols; ++c) {
        const double seen = rule_.weight_sees_given ? given_.at(t, c) : centred_.at(t, c) * inverse(t);
        to_weight.at(0, c) += d.at(t, c) * seen;
        inner += d.at(t, c) * weight_.at(0, c) * centred_.at(t, c);
      }
      const double through =
          rule_.root_is_constant ? 0.0 : inner * std::pow(inverse(t), 3.0) / static_cast<double>(d.cols);
      for (std::int64_t c = 0; c < d.cols; ++c)
        out.at(t, c) = d.at(t, c) * weight_.at(0, c) * inverse(t) - centred_.at(t, c) * through;
    }
    return out;
  }

 private:
  double inverse(std::int64_t t) const { return inverse_[static_cast<std::size_t>(t)]; }
  Matrix given_, weight_;
  LatentNormRule rule_;
  Matrix centred_;
  std::vector<double> inverse_;
};

/// The layer's experts on these rows, in float64; with a cotangent backward too.
Evaluation experts_on(const Call& call, const Matrix& rows, const Matrix* cotangent) {
  const MoEConfig c = parse_moe_config(call.config);
  Call inner{Component::experts, call.config, nlohmann::json::object(), {}, cotangent != nullptr};
  inner.tensors["inputs/x"] = in_double(rows, {rows.rows, rows.cols});
  if (cotangent) inner.tensors["cotangents/y"] = in_double(*cotangent, {rows.rows, rows.cols});
  inner.tensors["inputs/indices"] =
      Tensor::of({rows.rows, c.n_activated_experts}, std::span<const double>(dealt_ids(call)))
          .cast(DType::int64);
  inner.tensors["inputs/weights"] = filled(DType::float64, {rows.rows, c.n_activated_experts},
                                           1.0 / static_cast<double>(c.n_activated_experts));
  Tensor& mask = inner.tensors["inputs/token_mask"] = Tensor(DType::boolean, {rows.rows});
  for (std::int64_t t = 0; t < rows.rows; ++t) mask.set(t, is_live(call, t));
  for (const std::string_view tensor : kExpertTensors)
    if (const Tensor* param = find(call.tensors, expert_tensor(Component::moe, "params", tensor)))
      inner.tensors[expert_tensor(Component::experts, "params", tensor)] = *param;
  return evaluate(in_dtype(std::move(inner), DType::float64));
}

Matrix rows_of_result(const Evaluation& e, const char* name, const Matrix& like) {
  return {like.rows, like.cols, e.results.at(name).value};
}

}  // namespace

bool is_latent_layer(const Call& call) {
  return call.component == Component::moe && call.config.contains("latent_norm") &&
         call.config.at("n_shared_experts") == 0 && parse_call_options(call.options).fake_balanced_gate;
}

NamedTensors latent_layer(const Call& call, const LatentNormRule& rule) {
  const MoEConfig c = parse_moe_config(call.config);
  const auto param = [&](const char* name) {
    return matrix_of(call.tensors.at("params/" + std::string(name)));
  };
  const auto bias = [&](const char* name) { return find(call.tensors, "params/" + std::string(name)); };
  const std::int64_t tokens = call.tensors.at("inputs/x").size() / c.dim, width = *c.moe_latent_size;
  const Matrix x{tokens, c.dim, call.tensors.at("inputs/x").doubles()};
  const Matrix fc1 = param("fc1_latent_proj.weight"), fc2 = param("fc2_latent_proj.weight");
  const Matrix weight{1, width, call.tensors.at("params/latent_norm.weight").doubles()};
  const bool after_fc1 = c.latent_norm == LatentNorm::after_fc1;

  Matrix projected = matrix_times(x, fc1, true);
  add_to_rows(projected, bias("fc1_latent_proj.bias"));
  const Matrix entering =
      after_fc1 ? LatentRootNorm(projected, weight, c.latent_norm_eps, rule).forward() : projected;
  const Matrix left = rows_of_result(experts_on(call, entering, nullptr), "outputs/y", entering);
  const LatentRootNorm norm(after_fc1 ? projected : left, weight, c.latent_norm_eps, rule);
  const Matrix returned = after_fc1 ? left : norm.forward();
  Matrix y = matrix_times(returned, fc2, true);
  add_to_rows(y, bias("fc2_latent_proj.bias"));

  NamedTensors out;
  const Shape& shape = call.tensors.at("inputs/x").shape();
  out["outputs/y"] = in_double(y, shape);
  if (!call.backward) return out;
  const Matrix dy{tokens, c.dim, call.tensors.at("cotangents/y").doubles()};
  Matrix to_weight, d_returned = matrix_times(dy, fc2, false);
  const Evaluation back = experts_on(
      call, entering, &(d_returned = after_fc1 ? d_returned : norm.backward(d_returned, to_weight)));
  Matrix d_projected = rows_of_result(back, "grads/x", entering);
  if (after_fc1) d_projected = norm.backward(d_projected, to_weight);
  out["grads/x"] = in_double(matrix_times(d_projected, fc1, false), shape);
  out["grads/fc1_latent_proj.weight"] = in_double(gradient_by(d_projected, x), {width, c.dim});
  out["grads/fc2_latent_proj.weight"] = in_double(gradient_by(dy, returned), {c.dim, width});
  if (c.expert_bias) {
    out["grads/fc1_latent_proj.bias"] = in_double(sums_by_column(d_projected), {width});
    out["grads/fc2_latent_proj.bias"] = in_double(sums_by_column(dy), {c.dim});
  }
  out["grads/latent_norm.weight"] = in_double(to_weight, {width});
  for (const std::string_view tensor : kExpertTensors)
    if (const auto at = back.results.find(expert_tensor(Component::experts, "grads", tensor));
        at != back.results.end())
      out[expert_tensor(Component::moe, "grads", tensor)] =
          Tensor::of(at->second.shape, std::span<const double>(at->second.value));
  return out;
}

}  // namespace moeref
