#include "tools/judging/identity.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string_view>

#include "moeref/config.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kEnough = 512;
constexpr std::int64_t kShortestSum = 8;

/// More than 16 significant bits as a float32.
bool is_rough(double value) {
  const auto single = static_cast<float>(value);
  return std::isfinite(single) && (std::bit_cast<std::uint32_t>(single) & 0xff) != 0;
}

bool mostly_rough(const Tensor& tensor) {
  std::int64_t rough = 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i) rough += is_rough(tensor[i]);
  return 4 * rough >= 3 * tensor.size();
}

/// A float32 call whose products of inputs and weights all need rounding.
bool can_tell(const Call& call) {
  const bool mlp = call.component == Component::mlp;
  if (!mlp && call.component != Component::gate && call.component != Component::experts &&
      call.component != Component::moe)
    return false;
  // A gate that the call itself asks for in float64.
  if (parse_call_options(call.options).gate_precision == DType::float64) return false;
  std::int64_t shortest = 0;
  DType dtype = DType::float32;
  if (mlp) {
    const MLPConfig c = parse_mlp_config(call.config);
    shortest = std::min(c.dim, c.inter_dim);
    dtype = c.dtype;
  } else {
    const MoEConfig c = parse_moe_config(call.config);
    shortest = std::min({c.dim, c.expert_dim(), c.moe_inter_dim, c.n_routed_experts});
    dtype = c.dtype;
  }
  if (dtype != DType::float32 || shortest < kShortestSum) return false;
  for (const auto& [name, tensor] : call.tensors) {
    const bool matrix = name == "inputs/x" || (name.starts_with("params/") && tensor.shape().size() >= 2);
    if (matrix && (tensor.dtype() != DType::float32 || !mostly_rough(tensor))) return false;
  }
  return true;
}

/// Inner products end in it.
bool counts(std::string_view name) {
  constexpr std::array<std::string_view, 5> kNames{"outputs/y", "grads/x", "stages/logits",
                                                   "stages/up_projection", "stages/down_projection"};
  if (std::ranges::find(kNames, name) != kNames.end()) return true;
  return name.starts_with("grads/") && (name.ends_with("projs") || name.ends_with("proj.weight") ||
                                        name == "grads/weight" || name == "grads/gate.weight");
}

}  // namespace

bool IdentityCount::proof() const { return rough >= kEnough && equal == rough; }

IdentityCount& IdentityCount::operator+=(const IdentityCount& other) {
  rough += other.rough;
  equal += other.equal;
  return *this;
}

std::map<std::string, IdentityCount> count_identity(ReferenceResults& reference,
                                                    const NamedTensors& results) {
  std::map<std::string, IdentityCount> out;
  if (!can_tell(reference.call())) return out;
  const Evaluation& own = reference.own();
  for (const auto& [name, tensor] : results) {
    const auto found = own.results.find(name);
    if (!counts(name) || found == own.results.end() || found->second.shape != tensor.shape()) continue;
    if (tensor.dtype() != DType::float32 && tensor.dtype() != DType::float64) continue;
    IdentityCount& count = out[name];
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const double want = round_to(DType::float32, found->second.value[static_cast<std::size_t>(i)]);
      if (!is_rough(want)) continue;
      ++count.rough;
      count.equal += round_to(DType::float32, tensor[i]) == want;
    }
  }
  return out;
}

std::string identity_finding(const std::string& where, const IdentityCount& count) {
  return fmt::format(
      "identity: {} equals the fp64 reference, correctly rounded, in all {} elements that float32 sums would "
      "round otherwise now "
      "and then: the port calls the reference, or accumulates in float64 without declaring it",
      where, count.rough);
}

void IdentityEvidence::add(std::size_t report, Component component,
                           const std::map<std::string, IdentityCount>& counts) {
  for (const auto& [name, count] : counts) {
    if (count.rough == 0) continue;
    Pool& pool = pools_[{component, name}];
    pool.count += count;
    pool.reports.push_back(report);
  }
}

void IdentityEvidence::judge(std::vector<CaseReport>& reports, bool accuse) const {
  std::map<std::size_t, std::string> findings;
  for (const auto& [where, pool] : pools_) {
    if (!pool.count.proof()) continue;
    const std::string finding = identity_finding(
        fmt::format("{} over the {} cases of {}", where.second, pool.reports.size(), name(where.first)),
        pool.count);
    for (const std::size_t report : pool.reports) findings.try_emplace(report, finding);
  }
  for (const auto& [index, finding] : findings) {
    CaseReport& report = reports.at(index);
    if (!accuse) {
      report.warnings.push_back(finding);
      continue;
    }
    report.verdict = worse(report.verdict, Verdict::fail);
    report.finding += (report.finding.empty() ? "" : "; ") + finding;
  }
}

}  // namespace moeref
