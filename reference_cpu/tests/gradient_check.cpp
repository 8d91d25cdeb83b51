#include "reference_cpu/tests/gradient_check.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>

#include "moeref/config.hpp"

namespace moeref {
namespace {

struct Loss {
  const Call& call;
  NamedTensors routing;                  ///< the ids of the call itself: a choice has no derivative
  std::map<std::string, double> scales;  ///< on the losses among the results

  explicit Loss(const Call& call) : call(call) {
    const Evaluation e = evaluate(call);
    for (const RoutingScores& r : e.routing) {
      const BoundedTensor& ids = e.results.at(r.indices);
      Tensor tensor(DType::int64, ids.shape);
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, ids.value[static_cast<std::size_t>(i)]);
      routing[r.indices] = tensor;
    }
    if (call.component != Component::mlp) {
      const MoEConfig c = parse_moe_config(call.config);
      const double scale = parse_call_options(call.options).aux_loss_backward_scale;
      scales = {{"outputs/aux_loss", c.aux_loss_coeff * scale},
                {"outputs/batch_loss", c.batch_loss_coeff * scale},
                {"outputs/global_loss", c.global_loss_coeff * scale},
                {"outputs/z_loss", c.z_loss_coeff * scale}};
    }
    if (call.component == Component::aux_loss) scales = {{"outputs/aux_loss", 1.0}};
  }

  double operator()(const NamedTensors& tensors) const {
    Call at = call;
    at.tensors = tensors;
    at.backward = false;
    for (auto it = at.tensors.begin(); it != at.tensors.end();)
      it = it->first.starts_with("cotangents/") ? at.tensors.erase(it) : std::next(it);
    const Evaluation e = evaluate(at, routing);
    double sum = 0.0;
    for (const auto& [name, cotangent] : call.tensors) {
      if (!name.starts_with("cotangents/")) continue;
      const auto& out = e.results.at("outputs/" + name.substr(11)).value;
      for (std::int64_t i = 0; i < cotangent.size(); ++i)
        sum += cotangent[i] * out[static_cast<std::size_t>(i)];
    }
    for (const auto& [name, scale] : scales)
      if (const auto loss = e.results.find(name); loss != e.results.end())
        sum += scale * loss->second.value[0];
    return sum;
  }
};

/// "grads/x" belongs to "inputs/x" or "params/x".
std::string source(const Call& call, const std::string& gradient) {
  const std::string name = gradient.substr(6);
  return call.tensors.contains("inputs/" + name) ? "inputs/" + name : "params/" + name;
}

}  // namespace

void expect_central_differences(const Call& call, double tolerance, std::int64_t most) {
  const Evaluation e = evaluate(call);
  const Loss loss(call);
  const double h = 1e-5;
  std::mt19937_64 bits(23);
  NamedTensors up = call.tensors, down = call.tensors;
  double predicted = 0.0;
  std::int64_t gradients = 0;
  for (const auto& [name, gradient] : e.results) {
    if (!name.starts_with("grads/")) continue;
    ++gradients;
    const std::string from = source(call, name);
    const Tensor& value = call.tensors.at(from);
    ASSERT_EQ(value.dtype(), DType::float64) << from;
    ASSERT_EQ(value.shape(), gradient.shape) << name;
    const std::int64_t stride = 1 + (value.size() - 1) / most;
    for (std::int64_t i = 0; i < value.size(); i += stride) {
      NamedTensors moved = call.tensors;
      moved[from].set(i, value[i] + h);
      const double above = loss(moved);
      moved[from].set(i, value[i] - h);
      const double slope = (above - loss(moved)) / (2.0 * h),
                   got = gradient.value[static_cast<std::size_t>(i)];
      EXPECT_NEAR(got, slope, tolerance * (1.0 + std::abs(slope))) << name << " at " << i;
    }
    for (std::int64_t i = 0; i < value.size(); ++i) {
      const double direction = static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0;
      up[from].set(i, value[i] + h * direction);
      down[from].set(i, value[i] - h * direction);
      predicted += direction * gradient.value[static_cast<std::size_t>(i)];
    }
  }
  EXPECT_GT(gradients, 0);
  const double along = (loss(up) - loss(down)) / (2.0 * h);
  EXPECT_NEAR(predicted, along, 10.0 * tolerance * (1.0 + std::abs(along)));
}

}  // namespace moeref
