// Calls run by the CUDA implementation and judged by the reference's bounds.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <sstream>
#include <string>

#include "cuda_impl/adaptors/cuda_implementation.hpp"
#include "cuda_impl/tests/device.hpp"
#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/call/conventions.hpp"

namespace moeref::cuda::test {

/// Every tensor with its verdict, worst element included, so that one run says which stage went wrong first.
inline std::string report(const CaseVerdict& verdict) {
  std::ostringstream out;
  for (const TensorVerdict& t : verdict.tensors)
    out << "\n  " << t.tensor << ": " << name(t.verdict) << " r " << t.ratio << " at " << t.index << " value "
        << t.value << " reference " << t.reference << " bound " << t.bound << " " << t.finding;
  return out.str();
}

struct Judged {
  int calls = 0;
  std::int64_t tokens = 0, ambiguous = 0;
  double worst = 0.0;
};

/// Runs and judges one call. Ties must go to the lowest id where `lowest_id_first`. Ambiguity is counted, not
/// judged: logits in bfloat16 make it.
inline void judge_call(const Call& call, const std::string& what, Judged& total,
                       bool lowest_id_first = false) {
  CudaImplementation cuda;
  if (cuda.unsupported(call)) return;
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;
  options.lowest_id_first = lowest_id_first;
  const std::string text = what + "\n  " + std::string(name(call.component)) + " " + call.config.dump() +
                           " " + call.options.dump();
  try {
    const CaseVerdict verdict = judge(call, cuda.run(call), options);
    ++total.calls;
    total.tokens += verdict.tokens;
    total.ambiguous += verdict.ambiguous_tokens;
    total.worst = std::max(total.worst, verdict.worst_ratio());
    if (verdict.verdict == Verdict::fail) ADD_FAILURE() << text << report(verdict);
  } catch (const std::exception& error) {
    ADD_FAILURE() << text << "\n  threw: " << error.what();
  }
}
inline void expect_passes(const Call& call, const std::string& what, bool lowest_id_first = false) {
  Judged total;
  judge_call(call, what, total, lowest_id_first);
  EXPECT_EQ(total.calls, 1) << what << ": was not run";
}

/// The same call twice gives the same bits.
inline void expect_repeatable(const Call& call) {
  CudaImplementation cuda;
  const NamedTensors first = cuda.run(call), second = cuda.run(call);
  ASSERT_EQ(first.size(), second.size());
  for (const auto& [name, tensor] : first) EXPECT_TRUE(tensor == second.at(name)) << name;
}

/// A call of `tokens` tokens with every tensor that its signature asks for: x and cotangents of order one,
/// weights that make logits of order one, one token in five masked, ids at random.
inline Call filled_call(Component component, const MoEConfig& c, std::int64_t tokens, std::uint64_t seed,
                        bool backward = true, nlohmann::json options = nlohmann::json::object()) {
  Call call{component, to_json(c), std::move(options), {}, backward};
  std::mt19937_64 bits(seed);
  std::normal_distribution<double> normal;
  for (const TensorSpec& spec : signature(component, call.config, call.options, {tokens}, backward).inputs) {
    if (spec.name.find("replay") != std::string::npos) continue;
    Tensor tensor(spec.dtype, spec.shape);
    const bool weight = spec.name == "params/weight", small = spec.name.ends_with("bias");
    const double scale = weight ? 1.0 / std::sqrt(static_cast<double>(c.dim)) : small ? 0.1 : 1.0;
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      if (spec.dtype == DType::boolean)
        tensor.set(i, bits() % 5 != 0);
      else if (spec.dtype == DType::int64)
        tensor.set(i, static_cast<double>(bits() % static_cast<std::uint64_t>(c.n_routed_experts)));
      else if (spec.name == "inputs/original_scores")
        tensor.set(i, std::abs(normal(bits)) / static_cast<double>(c.n_routed_experts));
      else
        tensor.set(i, normal(bits) * scale);
    }
    call.tensors[spec.name] = std::move(tensor);
  }
  return call;
}

/// The call under the documented rule where CUDA has no other.
inline Call without_missing_rules(Call call) {
  for (const std::string_view rule : all_conventions())
    if (std::ranges::find(kCudaConventions, rule) == kCudaConventions.end())
      call.config.erase(std::string(rule));
  Shape tokens = call.tensors.at("inputs/x").shape();
  tokens.pop_back();
  const Signature wanted = signature(call.component, call.config, call.options, tokens, call.backward);
  std::erase_if(call.tensors, [&](const auto& tensor) {
    return std::ranges::find(wanted.inputs, tensor.first, &TensorSpec::name) == wanted.inputs.end();
  });
  return call;
}

/// E experts, k chosen, D wide; everything else at its default.
inline MoEConfig gate_only(std::int64_t experts, std::int64_t k, std::int64_t dim, DType dtype) {
  MoEConfig c;
  c.n_routed_experts = experts;
  c.n_activated_experts = k;
  c.dim = dim;
  c.inter_dim = c.moe_inter_dim = 8;
  c.dtype = dtype;
  return c;
}

}  // namespace moeref::cuda::test
