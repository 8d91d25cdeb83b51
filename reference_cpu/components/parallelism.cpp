#include "reference_cpu/components/parallelism.hpp"

#include <numeric>

#include "moeref/error.hpp"

namespace moeref {

namespace {

/// The tokens that rank `to` receives, source rank by source rank: all of them (all-gather), or those that
/// any of its experts works on, once each (all-to-all).
std::vector<std::int64_t> received_tokens(const Routing& r, const std::string& exchange, ExpertRange experts,
                                          const std::vector<std::int64_t>& offsets) {
  const std::int64_t k = r.weights.cols;
  std::vector<std::int64_t> out;
  for (std::size_t from = 0; from + 1 < offsets.size(); ++from)
    for (std::int64_t t = offsets[from]; t < offsets[from + 1]; ++t) {
      bool wanted = exchange == "all_gather";
      for (std::int64_t j = 0; j < k; ++j) {
        const std::int64_t id = r.indices[static_cast<std::size_t>(t * k + j)];
        wanted = wanted || (r.mask[static_cast<std::size_t>(t)] && id >= experts.first &&
                            id < experts.first + experts.count);
      }
      if (wanted) out.push_back(t);
    }
  return out;
}

RankWork receive(const Bounded& x, const Routing& r, std::vector<std::int64_t> tokens, ExpertRange experts) {
  RankWork work;
  work.experts = experts;
  work.x = gather_rows(x, tokens);
  work.weights = gather_rows(r.weights, tokens);
  const std::int64_t k = r.weights.cols;
  for (const std::int64_t t : tokens) {
    work.mask.push_back(r.mask[static_cast<std::size_t>(t)]);
    work.indices.insert(work.indices.end(), r.indices.begin() + t * k, r.indices.begin() + (t + 1) * k);
  }
  work.tokens = std::move(tokens);
  return work;
}

/// Adds a rank's rows to the rows of their tokens, in the order of the ranks: the way back of either
/// exchange. The bounds of the parts hold for their sum in any order.
void add_back(const Bounded& rows, const std::vector<std::int64_t>& tokens, PartSum& into) {
  for (std::size_t row = 0; row < tokens.size(); ++row)
    into.add(tokens[row], rows, static_cast<std::int64_t>(row));
}

}  // namespace

ParallelForward experts_forward_parallel(const MoEConfig& c, const CallOptions& options,
                                         const ExpertsParams& p, const Bounded& x, const Routing& routing) {
  const ParallelOptions& o = options.parallel;
  const auto offsets = rank_offsets(o.ep_size, o.tokens_per_rank, x.rows);
  ParallelForward out;
  PartSum sum(Bounded(x.rows, c.expert_dim(), DType::float32));
  for (std::int64_t r = 0; r < o.ep_size; ++r) {
    ExpertRange experts = rank_experts(c, r, o.ep_size);
    // Experts without parameters may be anywhere: the bounds hold for their rows' sum in any order.
    if (r + 1 == o.ep_size) experts.count += c.n_identity_experts;
    RankWork& work = out.ranks.emplace_back(
        receive(x, routing, received_tokens(routing, o.exchange, experts, offsets), experts));
    work.forward = experts_forward(c, options, p, work.x, work.routing(), experts);
    add_back(combine(c, work.forward, work.routing(), experts, DType::float32), work.tokens, sum);
  }
  out.y = cast(std::move(sum).total(), x.dtype);
  return out;
}

ExpertsBackward experts_backward_parallel(const MoEConfig& c, const CallOptions& options,
                                          const ExpertsParams& p, const ParallelForward& saved,
                                          const Bounded& dy, const std::string& prefix,
                                          std::map<std::string, BoundedTensor>& grads, std::int64_t others) {
  const RankWork& any = saved.ranks.front();
  PartSum dx(Bounded(dy.rows, c.expert_dim(), any.x.dtype)),
      d_weights(Bounded(dy.rows, any.weights.cols, any.weights.dtype));
  for (const RankWork& work : saved.ranks) {
    const ExpertsBackward part =
        experts_backward(c, options, p, work.x, work.routing(), work.experts, work.forward,
                         gather_rows(dy, work.tokens), prefix, grads, others);
    add_back(part.x, work.tokens, dx);
    add_back(part.weights, work.tokens, d_weights);
  }
  return {std::move(dx).total(), std::move(d_weights).total()};
}

}  // namespace moeref
