// The exchange is the simplest that there is: every rank gets all tokens, works on those that its experts are
// chosen for, and sends each rank what it has for that rank's tokens. A fast one sends a token only where it
// has work, and starts the products while rows still come.
#include "expert_parallel.hpp"

namespace example {
namespace {

std::vector<bool> gather(const Ranks& ranks, const std::vector<bool>& mine) {
  const std::vector<std::int64_t> all = ranks.gather(std::vector<std::int64_t>(mine.begin(), mine.end()));
  return {all.begin(), all.end()};
}

}  // namespace

Matrix run_experts(const Call& call, const std::string& prefix, const Matrix& x, const Dispatch& to,
                   const Matrix* dy, ExpertGradients* gradients) {
  const Ranks& ranks = call.ranks;
  // Context- and data-parallel ranks hold all experts: each works on its own tokens, and what is summed over
  // the tokens is summed over the ranks (Call::write_total).
  if (ranks.count() == 1 || call.options.integer("ep_size") == 1)
    return run_own_experts(call, prefix, 0, x, to, dy, gradients);

  // Dispatch.
  const std::vector<std::int64_t> tokens = ranks.gather(std::vector<std::int64_t>{x.rows});
  const Matrix all_x = ranks.gather(x), all_weights = ranks.gather(to.weights);
  const std::vector<std::int64_t> all_ids = ranks.gather(to.ids);
  const std::vector<bool> all_real = gather(ranks, to.real);
  const Matrix all_dy = dy ? ranks.gather(*dy) : Matrix();

  // The experts of this rank on the tokens of all ranks: their parameters' gradients are complete.
  const long own = call.config.integer("n_routed_experts") / ranks.count();
  ExpertGradients parts;
  const Matrix y = run_own_experts(call, prefix, ranks.rank() * own, all_x, {all_ids, all_weights, all_real},
                                   dy ? &all_dy : nullptr, &parts);

  // Combine. Each weight's gradient comes from the one rank that holds the expert; zeros from the others.
  if (dy) *gradients = {ranks.give_back(parts.x, tokens), ranks.give_back(parts.weights, tokens)};
  return ranks.give_back(y, tokens);
}

}  // namespace example
