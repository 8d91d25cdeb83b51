#include "tools/judging/sum_probe.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "moeref/config.hpp"
#include "tools/judging/summation_tree.hpp"

namespace moeref {
namespace {

using TermRows = std::span<const std::vector<double>>;

/// Sums per call: the columns of an output, or the tokens of a gate.
constexpr std::int64_t kSumsOfCall = 256;
/// Absorbs hundreds of ones in a significand of 53 bits and less.
constexpr int kLargeExponent = 70;
/// silu(64) is 64 in every type.
constexpr double kOpenGate = 64.0;

std::int64_t count(TermRows rows) { return static_cast<std::int64_t>(rows.size()); }

Tensor constant(DType dtype, Shape shape, double value) {
  Tensor out(dtype, std::move(shape));
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, value);
  return out;
}

Tensor places(Shape shape) {
  Tensor out(DType::int64, std::move(shape));
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, static_cast<double>(i % out.extent(1)));
  return out;
}

const Tensor& result(const NamedTensors& results, std::string_view name) {
  const Tensor* tensor = find(results, name);
  if (!tensor) throw std::runtime_error("it gives no " + std::string(name));
  return *tensor;
}

/// Each token is one vector of terms; all weights are 1. Read off the logits, or off sigmoids of them
/// over 32.
std::vector<double> gate_sums(const RunCall& run, DType dtype, TermRows terms) {
  constexpr std::int64_t kExperts = 8;
  constexpr double kFlat = 32.0;
  const auto dim = static_cast<std::int64_t>(terms.front().size());
  MoEConfig c;
  c.n_routed_experts = kExperts;
  c.n_activated_experts = 1;
  c.dim = dim;
  c.inter_dim = c.moe_inter_dim = 1;
  c.score_func = ScoreFunc::sigmoid;
  c.router_weights_fp32 = true;
  c.dtype = dtype;
  Call call{Component::gate, to_json(c), nlohmann::json::object(), {}, false};
  Tensor x(dtype, {count(terms), dim});
  for (std::int64_t i = 0; i < x.size(); ++i)
    x.set(i, terms[static_cast<std::size_t>(i / dim)][static_cast<std::size_t>(i % dim)]);
  call.tensors["inputs/x"] = std::move(x);
  call.tensors["params/weight"] = constant(dtype, {kExperts, dim}, 1.0 / kFlat);
  const NamedTensors results = run(call);
  std::vector<double> out;
  if (const Tensor* logits = find(results, "stages/logits")) {
    for (std::int64_t t = 0; t < count(terms); ++t) out.push_back(kFlat * (*logits)[t * kExperts]);
    return out;
  }
  const Tensor& weights = result(results, "outputs/weights");
  for (std::int64_t t = 0; t < count(terms); ++t)
    out.push_back(kFlat * std::log(weights[t] / (1.0 - weights[t])));
  return out;
}

/// Every column of the down projection is one vector of terms; one token opens all gates.
std::vector<double> mlp_sums(const RunCall& run, DType dtype, TermRows terms) {
  const auto inter = static_cast<std::int64_t>(terms.front().size());
  MLPConfig c;
  c.dim = kSumsOfCall;
  c.inter_dim = inter;
  c.dtype = dtype;
  Call call{Component::mlp, to_json(c), nlohmann::json::object(), {}, false};
  Tensor x(dtype, {1, kSumsOfCall}), gate(dtype, {inter, kSumsOfCall}), up(gate),
      down(dtype, {kSumsOfCall, inter});
  x.set(0, 1.0);
  for (std::int64_t i = 0; i < inter; ++i) {
    gate.set(i * kSumsOfCall, kOpenGate);
    up.set(i * kSumsOfCall, 1.0);
    for (std::int64_t d = 0; d < count(terms); ++d)
      down.set(d * inter + i, terms[static_cast<std::size_t>(d)][static_cast<std::size_t>(i)]);
  }
  call.tensors = {{"inputs/x", x},
                  {"params/gate_proj.weight", gate},
                  {"params/up_proj.weight", up},
                  {"params/down_proj.weight", down}};
  std::vector<double> out = result(run(call), "outputs/y").doubles();
  out.resize(terms.size());
  for (double& sum : out) sum /= kOpenGate;
  return out;
}

/// `experts` experts of which each token has all; expert e adds up terms [e width, (e + 1) width) and the
/// combination adds the experts.
std::vector<double> expert_sums(const RunCall& run, DType dtype, TermRows terms, std::int64_t experts) {
  const std::int64_t width = static_cast<std::int64_t>(terms.front().size()) / experts;
  MoEConfig c;
  c.n_routed_experts = c.n_activated_experts = experts;
  c.dim = kSumsOfCall;
  c.inter_dim = c.moe_inter_dim = width;
  c.dtype = dtype;
  Call call{Component::experts, to_json(c), nlohmann::json::object(), {}, false};
  Tensor x(dtype, {1, kSumsOfCall}), up(dtype, {experts, kSumsOfCall, 2 * width}),
      down(dtype, {experts, width, kSumsOfCall});
  x.set(0, 1.0);
  for (std::int64_t e = 0; e < experts; ++e)
    for (std::int64_t i = 0; i < width; ++i) {
      up.set(e * kSumsOfCall * 2 * width + i, kOpenGate);
      up.set(e * kSumsOfCall * 2 * width + width + i, 1.0);
      for (std::int64_t d = 0; d < count(terms); ++d)
        down.set((e * width + i) * kSumsOfCall + d,
                 terms[static_cast<std::size_t>(d)][static_cast<std::size_t>(e * width + i)]);
    }
  Tensor mask = constant(DType::boolean, {1}, 1.0);
  call.tensors = {{"inputs/x", x},
                  {"inputs/weights", constant(dtype, {1, experts}, 1.0)},
                  {"inputs/indices", places({1, experts})},
                  {"inputs/token_mask", mask},
                  {"params/gate_and_up_projs", up},
                  {"params/down_projs", down}};
  std::vector<double> out = result(run(call), "outputs/y").doubles();
  out.resize(terms.size());
  for (double& sum : out) sum /= kOpenGate;
  return out;
}

std::vector<double> expert_down_sums(const RunCall& run, DType dtype, TermRows terms) {
  return expert_sums(run, dtype, terms, 1);
}
std::vector<double> combine_sums(const RunCall& run, DType dtype, TermRows terms) {
  return expert_sums(run, dtype, terms, static_cast<std::int64_t>(terms.front().size()));
}

constexpr SumKind kKinds[] = {
    {"gate logits", Component::gate, "dim", 256, gate_sums},
    {"mlp down projection", Component::mlp, "inter_dim", 256, mlp_sums},
    {"experts down projection", Component::experts, "moe_inter_dim", 256, expert_down_sums},
    {"experts combination", Component::experts, "slots of a token", 8, combine_sums},
};

/// M at i, -M at j, `rest` where `at` says so.
std::vector<double> masked(std::int64_t n, std::int64_t i, std::int64_t j, double large, double rest,
                           std::int64_t at) {
  std::vector<double> out(static_cast<std::size_t>(n), at < 0 ? rest : 0.0);
  if (at >= 0) out[static_cast<std::size_t>(at)] = rest;
  out[static_cast<std::size_t>(i)] = large;
  out[static_cast<std::size_t>(j)] = -large;
  return out;
}

std::vector<double> all_sums(const SumKind& kind, const RunCall& run, DType dtype, TermRows terms) {
  std::vector<double> out;
  for (std::size_t first = 0; first < terms.size(); first += kSumsOfCall) {
    const auto part = terms.subspan(first, std::min<std::size_t>(kSumsOfCall, terms.size() - first));
    const std::vector<double> sums = kind.sums(run, dtype, part);
    out.insert(out.end(), sums.begin(), sums.end());
  }
  return out;
}

std::int64_t counted(double sum, std::int64_t n) {
  const double whole = std::nearbyint(sum);
  if (!(std::abs(sum - whole) < 0.25) || whole < 0.0 || whole > static_cast<double>(n - 2))
    throw std::runtime_error(fmt::format("a sum of ones is {:.6g}, which counts nothing", sum));
  return static_cast<std::int64_t>(whole);
}

MeetingSizes measure_sizes(const SumKind& kind, const RunCall& run, DType dtype, std::int64_t n) {
  std::vector<std::vector<double>> terms;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i + 1; j < n; ++j)
      terms.push_back(masked(n, i, j, std::ldexp(1.0, kLargeExponent), 1.0, -1));
  const std::vector<double> sums = all_sums(kind, run, dtype, terms);
  MeetingSizes sizes(n);
  std::size_t at = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i + 1; j < n; ++j) sizes.set(i, j, n - counted(sums[at++], n));
  return sizes;
}

/// M and -M meet last; a 1 in between is lost from the M on that has no bit for it any more.
void measure_accumulator(const SumKind& kind, const RunCall& run, DType dtype, const MeetingSizes& sizes,
                         SumFindings& out) {
  const std::int64_t n = sizes.terms();
  std::int64_t j = 1;
  while (sizes.at(0, j) < n) ++j;
  const std::int64_t at = j == 1 ? 2 : 1;
  std::vector<std::vector<double>> terms;
  for (int k = 1; k <= kLargeExponent; ++k) terms.push_back(masked(n, 0, j, std::ldexp(1.0, k), 1.0, at));
  const std::vector<double> sums = all_sums(kind, run, dtype, terms);
  const auto lost = std::ranges::find_if(sums, [](double sum) { return std::abs(sum) < 0.25; });
  if (lost == sums.end()) return;
  out.bits = static_cast<int>(lost - sums.begin()) + 1;
  // Three quarters of the last bit: up to the nearest, or cut off.
  terms = {masked(n, 0, j, std::ldexp(1.0, out.bits - 1), 0.75, at)};
  out.cuts_off = out.bits > 1 && all_sums(kind, run, dtype, terms).front() < 0.25;
}

}  // namespace

std::span<const SumKind> sum_kinds() { return kKinds; }

SumFindings probe_sum(const SumKind& kind, const RunCall& run, DType dtype, std::int64_t terms) {
  SumFindings out;
  try {
    const std::int64_t n = std::min(terms, kind.most_terms);
    const MeetingSizes sizes = measure_sizes(kind, run, dtype, n);
    const SummationTree tree = recover_tree(sizes);
    out.tree = to_string(tree);
    out.order = in_words(tree);
    if (out.order.empty()) out.order = out.tree;
    if (n > 2) measure_accumulator(kind, run, dtype, sizes, out);
  } catch (const std::runtime_error& why) {
    out.unknown = why.what();
  }
  return out;
}

std::string accumulator_in_words(int bits) {
  struct Width {
    int bits;
    const char* type;
  };
  for (const Width known : {Width{53, "float64"}, {24, "float32"}, {11, "float16"}, {8, "bfloat16"}})
    if (bits == known.bits) return fmt::format("{} ({} bits)", known.type, bits);
  return fmt::format("{} bits", bits);
}

}  // namespace moeref
