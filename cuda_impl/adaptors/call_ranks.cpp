#include "cuda_impl/adaptors/call_ranks.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "reference_cpu/call/rank_shares.hpp"

namespace moeref::cuda {
namespace {

/// Of the parts of all ranks.
void add_up(Bootstrap& bootstrap, Tensor& part) {
  const auto bytes = part.bytes();
  std::vector<std::byte> all(bytes.size() * static_cast<std::size_t>(bootstrap.size()));
  bootstrap.all_gather(bytes.data(), bytes.size(), all.data());
  const auto parts = [&](std::size_t rank) {
    Tensor out(part.dtype(), part.shape());
    std::memcpy(out.bytes().data(), all.data() + rank * bytes.size(), bytes.size());
    return out;
  };
  std::vector<double> sum(static_cast<std::size_t>(part.size()), 0.0);
  for (std::size_t r = 0; r < static_cast<std::size_t>(bootstrap.size()); ++r) {
    const Tensor one = parts(r);
    for (std::int64_t i = 0; i < part.size(); ++i) sum[static_cast<std::size_t>(i)] += one[i];
  }
  for (std::int64_t i = 0; i < part.size(); ++i) part.set(i, sum[static_cast<std::size_t>(i)]);
}

}  // namespace

std::int64_t CallRanks::max_tokens(std::int64_t own) const {
  std::vector<std::int64_t> all(static_cast<std::size_t>(bootstrap->size()));
  bootstrap->all_gather(own, all.data());
  return *std::max_element(all.begin(), all.end());
}

void CallRanks::add_up(const Call& share, NamedTensors& results) const {
  for (auto& [name, tensor] : results)
    if ((name == "outputs/expert_load" || name.starts_with("grads/")) &&
        division(share, name) == Division::whole)
      cuda::add_up(*bootstrap, tensor);
}

ExpertsSpread::ExpertsSpread(const ExpertsConfig& c, const CallOptions& o, const CallRanks* all) {
  if (!all || o.parallel.ep_size == 1) return;
  ranks = static_cast<int>(o.parallel.ep_size);
  max_tokens = all->max_tokens(c.tokens);
  exchange = o.parallel.exchange == "all_gather" ? Exchange::all_gather : Exchange::all_to_all;
  group = all->group.get();
  chunks = ranks > 2 ? 2 : 1;
  kept = kept_window(config(c), *group);
  transient = transient_window(config(c), *group);
}

std::int64_t ranks_of(const Call& call) { return parse_call_options(call.options).parallel.size(); }

NamedTensors run_together(const Call& share, const std::shared_ptr<Bootstrap>& bootstrap,
                          const DeviceOptions& options, NamedTensors (*run)(const Call&, DeviceContext&)) {
  const CallRanks together{bootstrap, Group::create(bootstrap)};
  DeviceContext device(options, &together);
  NamedTensors own = run(share, device);
  together.group->throw_if_broken();
  device.check_guards();
  together.add_up(share, own);
  return own;
}

NamedTensors run_on_ranks(const Call& call, const DeviceOptions& options,
                          NamedTensors (*run)(const Call&, DeviceContext&)) {
  const std::int64_t ranks = ranks_of(call);
  const RankShares shares(call, ranks, signature(call).outputs);
  std::vector<NamedTensors> results(static_cast<std::size_t>(ranks));
  run_ranks(static_cast<int>(ranks), [&](const std::shared_ptr<Bootstrap>& world) {
    const auto r = static_cast<std::size_t>(world->rank());
    results[r] = run_together(shares.call(r), world, options, run);
  });
  return shares.join(std::move(results));
}

}  // namespace moeref::cuda
