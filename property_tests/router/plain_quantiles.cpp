#include "property_tests/router/plain_quantiles.hpp"

#include <algorithm>
#include <functional>
#include <string>

#include "property_tests/router/router_oracle.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

double ranked(std::vector<double> numbers, std::int64_t rank) {
  rank = std::clamp<std::int64_t>(rank, 0, static_cast<std::int64_t>(numbers.size()) - 1);
  std::ranges::sort(numbers, std::greater<>{});
  return numbers[static_cast<std::size_t>(rank)];
}

/// A forward's call of the gate.
Call forward_of(const Call& call, const std::string& at) {
  Call gate{Component::gate, call.config, nlohmann::json::object(), {}, false};
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/")) gate.tensors[name] = tensor;
  gate.tensors["inputs/x"] = call.tensors.at("inputs/x" + at);
  if (const Tensor* mask = find(call.tensors, "inputs/token_mask" + at))
    gate.tensors["inputs/token_mask"] = *mask;
  return gate;
}

/// The quantiles of the tokens [first, last); nothing without one.
std::vector<double> quantiles_of(const Call& gate, const MoEConfig& c, const Matrix& scores,
                                 const std::vector<double>& bias, std::int64_t first, std::int64_t last,
                                 const QuantileParts& parts) {
  std::vector<std::vector<double>> columns(bias.size());
  for (std::int64_t t = first; t < last; ++t) {
    if (!parts.counts_masked && !is_real(gate, t)) continue;
    std::vector<double> plain, biased;
    for (std::size_t e = 0; e < bias.size(); ++e) {
      plain.push_back(scores.at(t, static_cast<std::int64_t>(e)));
      biased.push_back(plain[e] + bias[e]);
    }
    const double alpha = ranked(biased, c.n_activated_experts - 1 + parts.next);
    for (std::size_t e = 0; e < bias.size(); ++e)
      columns[e].push_back((parts.biased ? biased : plain)[e] - alpha);
  }
  std::vector<double> out;
  const auto tokens = static_cast<std::int64_t>(columns.front().size());
  const std::int64_t slots = parts.counts_slots ? tokens * c.n_activated_experts : tokens;
  for (const auto& column : columns)
    if (tokens > 0) out.push_back(ranked(column, slots / c.n_routed_experts + parts.past));
  return out;
}

}  // namespace

std::vector<double> plain_quantile_update(const Call& call, std::int64_t step,
                                          const std::vector<double>& before, const QuantileParts& parts) {
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  std::vector<double> sum(before.size());
  double count = 0.0;
  for (std::int64_t m = 0; m < o.micro_batches; ++m) {
    const Call gate = forward_of(call, "_" + std::to_string(step) + "_" + std::to_string(m));
    const Matrix scores = c.selects_logits() ? logits_of(gate) : scores_of(gate);
    const auto ranks = rank_offsets(o.parallel.dp_size, o.parallel.tokens_per_rank, scores.rows);
    for (std::size_t r = 0; r + 1 < ranks.size(); ++r) {
      const std::vector<double> own = quantiles_of(gate, c, scores, before, ranks[r], ranks[r + 1], parts);
      for (std::size_t e = 0; e < own.size(); ++e) sum[e] += own[e];
      count += own.empty() ? 0.0 : 1.0;
    }
  }
  if (count == 0.0) return before;
  const double kept = parts.keeps ? c.bias_update_ema : 0.0;
  std::vector<double> out;
  double mean = 0.0;
  for (std::size_t e = 0; e < before.size(); ++e) {
    out.push_back(kept * before[e] + static_cast<double>(parts.sign) * (1.0 - kept) * sum[e] / count);
    mean += out[e] / static_cast<double>(before.size());
  }
  for (double& bias : out) bias -= parts.centres ? mean : 0.0;
  return out;
}

}  // namespace moeref
