// The tensors of the call that a descriptor stands for.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "golden/catalogue/data_choice.hpp"
#include "moeref/descriptor.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"

namespace moeref {
namespace {

/// Index of (row, column) with a fixed stride, so that it does not depend on the extents.
std::uint64_t index_of(std::int64_t row, std::int64_t column) {
  return static_cast<std::uint64_t>(row) << 21 | static_cast<std::uint64_t>(column);
}

/// Logits that differ between the experts of a token: (a e + b) mod p runs through different residues as long
/// as p is a prime above the largest e. Centred, in steps of 4 / 16 up to 17 experts, finer for more.
double level(const CounterGenerator& random, std::int64_t token, std::int64_t expert, std::int64_t experts) {
  const std::int64_t prime = experts <= 17 ? 17 : experts <= 67 ? 67 : 1031;
  const double step = experts <= 17 ? 0.25 : experts <= 67 ? 0x1p-4 : 0x1p-8;
  const auto p = static_cast<std::uint64_t>(prime);
  const auto a = static_cast<std::int64_t>(1 + random.integer(index_of(token, 0), p - 1)),
             b = static_cast<std::int64_t>(random.integer(index_of(token, 1), p));
  const std::int64_t middle = prime / 2;
  return static_cast<double>((a * expert + b) % prime - middle) * step;
}

double logit(const Descriptor& d, const CounterGenerator& random, std::int64_t token, std::int64_t expert) {
  switch (d.logits) {
    case Logits::ties:
      return static_cast<double>(random.integer(index_of(token, expert + 2), 3)) - 1.0;
    case Logits::equal:
      return 0.25;
    case Logits::large:
      return 16.0 * level(random, token, expert, d.E);
    case Logits::negative:
      return level(random, token, expert, d.E) - 8.0;
    case Logits::skewed:
      return level(random, token, expert, d.E) - 2.0 * static_cast<double>(std::min<std::int64_t>(expert, 3));
    default:
      return level(random, token, expert, d.E);
  }
}

/// The bias of expert e's logit: a dyadic number, so that logit - bias + bias is exact.
double router_bias(const Descriptor& d, std::int64_t expert) {
  if (!d.router_bias) return 0.0;
  return static_cast<double>(
             CounterGenerator(d.seed, "router bias").integer(static_cast<std::uint64_t>(expert), 9)) *
             0.25 -
         1.0;
}

bool identity_gate(const Descriptor& d) { return d.logits != Logits::rough && d.logits != Logits::whole; }

/// x [tokens, D] with the logits in its first E columns; the gate does not look at the others.
Tensor gate_x(const Descriptor& d, const std::string& name, DType dtype, const Shape& shape) {
  const std::int64_t width = shape.back(), rows = width > 0 ? element_count(shape) / width : 0;
  const CounterGenerator random(d.seed, name + " logits"), others(d.seed, name);
  Tensor out(dtype, shape);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t c = 0; c < width; ++c)
      out.set(t * width + c, c < d.E ? logit(d, random, t, c) - router_bias(d, c)
                                     : static_cast<double>(others.integer(index_of(t, c), 7)) - 3.0);
  return out;
}

Tensor gate_weight(DType dtype, const Shape& shape) {
  Tensor out(dtype, shape);
  for (std::int64_t e = 0; e < shape[0]; ++e) out.set(e * shape[1] + e, 1.0);
  return out;
}

Tensor correction_bias(const Descriptor& d, const Shape& shape) {
  const CounterGenerator random(d.seed, "correction");
  Tensor out(DType::float32, shape);
  for (std::int64_t e = 0; e < shape[0]; ++e) {
    const double u = static_cast<double>(random.integer(static_cast<std::uint64_t>(e), 1025)) / 1024.0;
    switch (d.correction) {
      case Correction::equal:
        out.set(e, 0.125);
        break;
      case Correction::normal:
        out.set(e, u - 0.5);
        break;
      case Correction::negative:
        out.set(e, -0.25 - 1.25 * u);
        break;
      default:
        break;
    }
  }
  return out;
}

DataChoice reals(const Descriptor& d, std::string_view tensor) {
  const bool exact = d.values == Values::exact, bias = tensor.ends_with("bias");
  if (tensor == "inputs/weights")
    return exact ? DataChoice{"powers_of_two", {{"lowest", -2.0}, {"count", 3.0}}}
                 : DataChoice{"uniform", {{"low", 0.05}, {"high", 1.0}}};
  if (tensor == "inputs/original_scores")
    return exact ? DataChoice{"powers_of_two", {{"lowest", -4.0}, {"count", 4.0}}}
                 : DataChoice{"probabilities", {}};
  if (tensor.starts_with("params/") && !bias)
    return exact ? DataChoice{"integer", {{"limit", 2.0}}} : DataChoice{"fan_in", {}};
  if (exact) return {"integer", {{"limit", 3.0}}};
  const bool loud = d.values == Values::loud && tensor.starts_with("inputs/x");
  return {"normal", {{"scale", loud ? 8.0 : bias ? 0.5 : 1.0}}};
}

/// Of the gate of a layer whose logits are sums of products.
DataChoice gate_reals(const Descriptor& d, bool weight) {
  if (d.logits == Logits::whole)
    return {"levels", {{"count", 5.0}, {"step", weight ? 0.25 : 1.0}, {"first", weight ? -0.5 : -2.0}}};
  return weight ? DataChoice{"fan_in", {}} : DataChoice{"normal", {}};
}

void poison(const Descriptor& d, Tensor& x) {
  const std::int64_t width = x.shape().back(), rows = width > 0 ? x.size() / width : 0;
  if (d.poison == NonFinite::none || rows == 0) return;
  const double value = d.poison == NonFinite::nan ? std::numeric_limits<double>::quiet_NaN()
                                                  : std::numeric_limits<double>::infinity();
  x.set(rows / 2 * width + width / 2, value);
}

struct TensorDraw {
  const Descriptor& d;
  const TensorSpec& spec;
  bool has(std::string_view stem) const { return spec.name.find(stem) != std::string::npos; }
};

Tensor draw_mask(const TensorDraw& w) {
  std::string kind(name(w.d.mask));
  const std::vector<bool> masked = draw_masked_tokens({kind, {}}, {w.d.seed, "mask"}, w.spec.shape);
  const bool true_is_masked = w.has("padding_mask");
  Tensor out(DType::boolean, w.spec.shape);
  for (std::size_t t = 0; t < masked.size(); ++t)
    out.set(static_cast<std::int64_t>(t), masked[t] == true_is_masked ? 1.0 : 0.0);
  return out;
}

/// Ids of `rows` tokens, spread over the call, hold the expert that the seed chooses, and those of no other
/// token do; the remaining slots hold different other experts.
Tensor draw_exact_rows(const TensorDraw& w) {
  const std::int64_t tokens = w.spec.shape[0], k = w.spec.shape[1], experts = w.d.E;
  const auto chosen = static_cast<std::int64_t>(w.d.seed % static_cast<std::uint64_t>(experts));
  const CounterGenerator random(w.d.seed, w.spec.name);
  Tensor out(DType::int64, w.spec.shape);
  const std::span<std::int64_t> ids = out.as<std::int64_t>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    const bool has_it = (t + 1) * w.d.rows / tokens > t * w.d.rows / tokens;
    const std::int64_t others = std::max<std::int64_t>(experts - 1, 1);
    auto other =
        static_cast<std::int64_t>(random.integer(index_of(t, 0), static_cast<std::uint64_t>(others)));
    for (std::int64_t j = 0; j < k; ++j) {
      std::int64_t& id = ids[static_cast<std::size_t>(t * k + j)];
      if (has_it && j == t % k) {
        id = chosen;
      } else {
        id = other + (other >= chosen ? 1 : 0);
        other = (other + 1) % others;
      }
    }
  }
  return out;
}

Tensor draw_experts(const TensorDraw& w) {
  const bool replayed = w.has("replay");
  Ids ids = w.d.ids;
  const MoEConfig c = moe_config(w.d);
  // What a gate selects is distinct experts.
  if (replayed && (ids == Ids::duplicates || (ids == Ids::absent_slots && c.null_slots == NullSlots::given)))
    ids = Ids::distinct;
  const bool some_left = w.d.E - w.d.E / 3 >= w.d.k;
  if (ids == Ids::some_empty && !some_left) ids = Ids::distinct;
  if (ids == Ids::rows) return draw_exact_rows(w);
  Tensor out = draw_ids({std::string(name(ids)), {}}, {w.d.seed, w.spec.name}, w.spec.shape[0],
                        w.spec.shape[1], w.d.E);
  for (std::int64_t& id : out.as<std::int64_t>())
    if (id < 0) id = c.null_id();
  return out;
}

std::int64_t fan_in(const Shape& shape) { return shape.size() < 2 ? 1 : std::max<std::int64_t>(1, shape[1]); }

Tensor draw_tensor(const TensorDraw& w) {
  const Descriptor& d = w.d;
  const std::string& name = w.spec.name;
  const bool selects = d.component == Component::gate || d.component == Component::bias_update ||
                       (d.component == Component::moe && !d.fake_gate);
  const bool of_gate =
      d.component == Component::moe ? name.starts_with("params/gate.") : name.starts_with("params/");
  if (w.has("mask")) return draw_mask(w);
  if (w.has("indices")) return draw_experts(w);
  if (w.has("expert_load"))
    return draw_loads({std::string(moeref::name(d.loads)), {}}, {d.seed, name}, w.spec.shape);
  if (name.ends_with("e_score_correction_bias")) return correction_bias(d, w.spec.shape);
  if (selects && (name.starts_with("inputs/x") || (of_gate && name.ends_with("weight")))) {
    const bool weight = !name.starts_with("inputs/x");
    if (identity_gate(d))
      return weight ? gate_weight(w.spec.dtype, w.spec.shape) : gate_x(d, name, w.spec.dtype, w.spec.shape);
    return draw_reals(gate_reals(d, weight), {d.seed, name}, w.spec.dtype, w.spec.shape,
                      fan_in(w.spec.shape));
  }
  if (selects && of_gate && name.ends_with("bias")) {
    Tensor bias(w.spec.dtype, w.spec.shape);
    for (std::int64_t e = 0; e < bias.size(); ++e) bias.set(e, router_bias(d, e));
    return bias;
  }
  return draw_reals(reals(d, name), {d.seed, name}, w.spec.dtype, w.spec.shape, fan_in(w.spec.shape));
}

Shape token_shape(const Descriptor& d) {
  if (d.component == Component::moe && d.batch > 1) return {d.batch, d.T / d.batch};
  return {d.T};
}

}  // namespace

Call make_call(const Descriptor& d, bool backward) {
  if (const WeightFormat format = d.config.weight_format; format != WeightFormat::none) {
    Descriptor numbers = d;
    numbers.config.weight_format = WeightFormat::none;
    numbers.config.activation_format = ActivationFormat::none;
    numbers.config.accumulator = Accumulator::float32;
    return quantized_call(make_call(numbers, backward), format, d.config.activation_format,
                          d.config.accumulator);
  }
  const bool mlp = d.component == Component::mlp;
  Call call{
      d.component, mlp ? to_json(mlp_config(d)) : to_json(moe_config(d)), call_options(d), {}, backward};
  const Shape tokens = d.component == Component::init ? Shape{} : token_shape(d);
  const Signature want = signature(d.component, call.config, call.options, tokens, backward);
  for (const TensorSpec& spec : want.inputs) {
    const TensorDraw drawn{d, spec};
    if (drawn.has("mask") && d.mask == Mask::absent) continue;
    if (drawn.has("replay_indices") && !d.replay) continue;
    Tensor& out = call.tensors[spec.name] = draw_tensor(drawn);
    if (spec.name.starts_with("inputs/x")) poison(d, out);
  }
  return call;
}

}  // namespace moeref
