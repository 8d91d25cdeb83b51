#include "tools/own_ports/ranks_as_port.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "reference_cpu/call/rank_shares.hpp"
#include "tools/own_ports/implementation_as_port.hpp"
#include "tools/port_abi/call_tensors.hpp"

namespace moeref {
namespace {

using Bytes = std::vector<std::byte>;

void check(std::int32_t status) {
  if (status != MOEREF_OK) throw std::runtime_error("an exchange with the other ranks failed");
}

/// What each rank sends to all, as many bytes as it has.
std::vector<Bytes> gather(const moeref_exchange& e, const Bytes& mine) {
  const auto ranks = static_cast<std::size_t>(e.world_size);
  const std::size_t size = mine.size();
  std::vector<std::size_t> sizes(ranks);
  check(e.all_gather(e.context, &size, sizeof size, sizes.data()));
  std::vector<Bytes> out(ranks);
  std::vector<const void*> from(ranks, mine.data());
  std::vector<void*> to;
  for (std::size_t r = 0; r < ranks; ++r) {
    out[r].resize(sizes[r]);
    to.push_back(out[r].data());
  }
  check(e.all_to_all(e.context, from.data(), std::vector(ranks, size).data(), to.data(), sizes.data()));
  return out;
}

/// Of a tensor that is divided over the ranks; all axes before it are 1.
std::size_t divided_axis(const Call& call, const std::string& name) {
  return division(call, name) == Division::batch ? require(call.tensors, "inputs/x").shape().size() - 2 : 0;
}

/// The call of which each rank has a share.
Call gathered(const Call& own, const moeref_exchange& exchange) {
  Call whole{own.component, own.config, own.options, {}, own.backward};
  for (const auto& [name, tensor] : own.tensors) {
    if (division(own, name) == Division::whole) {
      whole.tensors[name] = tensor;
      continue;
    }
    const std::vector<Bytes> parts = gather(exchange, {tensor.bytes().begin(), tensor.bytes().end()});
    Shape shape = tensor.shape();
    std::int64_t& rows = shape[divided_axis(own, name)];
    rows = 1;
    const std::int64_t row = element_count(shape) * size_of(tensor.dtype());
    rows = 0;
    for (const Bytes& part : parts) rows += static_cast<std::int64_t>(part.size()) / row;
    Tensor all(tensor.dtype(), shape);
    auto to = all.bytes().begin();
    for (const Bytes& part : parts) to = std::ranges::copy(part, to).out;
    whole.tensors[name] = std::move(all);
  }
  return whole;
}

}  // namespace

std::int32_t run_ranks_with(Implementation& implementation, const moeref_call* call, char* error,
                            std::size_t size) try {
  if (call->world_size == 1) return run_with(implementation, call, error, size);
  const Call whole = gathered(call_of(*call), *call->exchange);
  const RankShares ranks(whole, call->world_size, port_outputs(whole, {}));
  NamedTensors results = implementation.run(whole);
  for (auto& [name, tensor] : results)
    tensor = ranks.share(name, tensor, static_cast<std::size_t>(call->rank));
  write_results(*call, results);
  return MOEREF_OK;
} catch (const std::exception& wrong) {
  return give_error(wrong, error, size);
}

}  // namespace moeref
