#include "reference_cpu/components/fake_balanced_gate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/torch_generator.hpp"

namespace moeref {
namespace {

void check(const MoEConfig& c, std::int64_t skip, double noise) {
  const std::string experts = "n_routed_experts = " + std::to_string(c.n_routed_experts);
  if (skip < 0 || skip >= c.n_routed_experts)
    throw InputError("skip_first_n_experts is " + std::to_string(skip) + ": want 0 or more and less than " +
                     experts);
  if (!(noise >= 0.0 && noise <= 1.0))
    throw InputError("noise is " + std::to_string(noise) + ": want 0 to 1");
  if (c.n_activated_experts < 1)
    throw InputError("n_activated_experts is " + std::to_string(c.n_activated_experts) + ": want 1 or more");
  if (noise > 0.0 && c.n_activated_experts > c.n_routed_experts - skip)
    throw InputError("skip_first_n_experts is " + std::to_string(skip) +
                     ": with noise, want n_activated_experts = " + std::to_string(c.n_activated_experts) +
                     " experts or more left of " + experts);
}

void assign_in_turn(std::span<std::int64_t> ids, std::int64_t available, std::int64_t skip) {
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i) % available + skip;
}

void draw_weights(TorchGenerator& generator, std::int64_t k, FakeRouting& out) {
  for (float& r : out.uniforms) r = generator.uniform_float();
  const auto slots = static_cast<std::size_t>(k);
  for (std::size_t first = 0; first < out.uniforms.size(); first += slots) {
    double sum = 0.0;
    for (std::size_t j = 0; j < slots; ++j) sum += out.uniforms[first + j];
    for (std::size_t j = 0; j < slots; ++j)
      out.weights[first + j] =
          (1.0 - out.noise) / static_cast<double>(k) + out.noise * (out.uniforms[first + j] / sum);
  }
}

void draw_ids(TorchGenerator& generator, std::span<std::int64_t> ids, std::int64_t k, std::int64_t available,
              std::int64_t skip, double noise) {
  const auto experts = static_cast<std::size_t>(available), slots = static_cast<std::size_t>(k);
  const Tensor normals = generator.normal(DType::float32, {available}, 0.0, 1.0);
  // PyTorch rounds a Python scalar to fp32 where the tensor is fp32: two products, each rounded.
  std::vector<float> bias(normals.as<float>().begin(), normals.as<float>().end());
  for (float& b : bias) b = b * static_cast<float>(noise) * 0.1f;

  std::vector<float> score(experts);
  std::vector<std::size_t> order(experts);
  for (std::size_t first = 0; first < ids.size(); first += slots) {
    for (std::size_t e = 0; e < experts; ++e) score[e] = generator.uniform_float() + bias[e];
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](std::size_t a, std::size_t b) {
      return score[a] > score[b] || (score[a] == score[b] && a < b);
    });
    for (std::size_t j = 0; j < slots; ++j) ids[first + j] = static_cast<std::int64_t>(order[j]) + skip;
  }
}

}  // namespace

std::uint32_t fake_balanced_gate_seed(const Tensor& x) {
  float sum = 0.0f;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(4, x.size()); ++i) sum = sum + static_cast<float>(x[i]);
  if (!std::isfinite(sum))
    throw InputError("inputs/x: its first four values sum to " + std::to_string(sum) +
                     ": want a finite sum, the seed of the noise");
  // The low 31 bits of a two's complement integer are its remainder by 2^31, made non-negative; std::fmod is
  // exact.
  const double remainder = std::fmod(std::trunc(static_cast<double>(sum) * 1e6), 0x1p31);
  return static_cast<std::uint32_t>(static_cast<std::int64_t>(remainder) & 0x7fffffff);
}

FakeRouting fake_balanced_gate(const Tensor& x, const MoEConfig& config, std::int64_t skip, double noise) {
  check(config, skip, noise);
  if (!is_floating(x.dtype()) || x.shape().size() < 2)
    throw InputError("inputs/x is " + std::string(name(x.dtype())) + " " + to_string(x.shape()) +
                     ": want a floating tensor [tokens, dim]");
  const std::int64_t k = config.n_activated_experts, available = config.n_routed_experts - skip;
  const Shape rows(x.shape().begin(), x.shape().end() - 1);
  const std::int64_t tokens = element_count(rows);
  const auto count = static_cast<std::size_t>(tokens * k);

  FakeRouting out{
      Tensor(DType::int64, {tokens, k}), std::vector<double>(count, 1.0 / static_cast<double>(k)), {}, noise};
  const auto ids = out.indices.as<std::int64_t>();
  if (noise > 0.0) {
    TorchGenerator generator(fake_balanced_gate_seed(x));
    out.uniforms.resize(count);
    draw_weights(generator, k, out);
    draw_ids(generator, ids, k, available, skip, noise);
  } else {
    assign_in_turn(ids, available, skip);
  }
  return out;
}

Bounded fake_balanced_weights(const FakeRouting& routing, std::int64_t k, DType dtype) {
  const std::int64_t tokens = routing.indices.extent(0);
  const Precision fp32 = precision(DType::float32);
  Bounded out(tokens, k, dtype);
  const Real uniform = Real{1.0 / static_cast<double>(k), 0.0, fp32}.rounded();
  const Real noise = Real{routing.noise, 0.0, fp32}.rounded(),
             rest = Real{1.0 - routing.noise, 0.0, fp32}.rounded();
  for (std::int64_t t = 0; t < tokens; ++t) {
    Real sum = known(0.0, fp32);
    const auto r = [&](std::int64_t j) {
      return known(routing.uniforms[static_cast<std::size_t>(t * k + j)], fp32);
    };
    if (routing.noise > 0.0)
      for (std::int64_t j = 0; j < k; ++j) sum = sum + r(j);
    for (std::int64_t j = 0; j < k; ++j)
      out.set(t, j, routing.noise > 0.0 ? rest * uniform + noise * (r(j) / sum) : uniform);
  }
  return out;
}

}  // namespace moeref
