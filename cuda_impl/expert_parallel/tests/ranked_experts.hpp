// A HostCase on the ranks of a group: every rank's share of the call, and the results put together.
#pragma once

#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>

#include "cuda_impl/experts/tests/device_experts.hpp"
#include "moeref/cuda/expert_parallel.hpp"

namespace moeref::cuda::test {

/// A way to spread the tokens and to exchange them.
struct Spread {
  std::vector<std::int64_t> tokens;  // of each rank
  Exchange exchange = Exchange::all_to_all;
  Transport transport = Transport::automatic;
  int chunks = 1;
  std::int64_t capacity = 0;  // of the windows, in tokens; 0: as many as any rank has
  std::int64_t max_rows = 0, max_token_rows = 0;
  int ranks() const { return static_cast<int>(tokens.size()); }
  std::int64_t most() const {
    return capacity > 0 ? capacity : *std::max_element(tokens.begin(), tokens.end());
  }
  std::int64_t first(int rank) const {
    return std::accumulate(tokens.begin(), tokens.begin() + rank, std::int64_t{0});
  }
};

/// 40 tokens on the first rank, 37 on the last, none on those between.
inline std::vector<std::int64_t> tokens_at_both_ends(int ranks) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(ranks), 0);
  out.front() = 40, out.back() = 37;
  return out;
}

/// With windows whose rows are packed, since a rank never has all of the tokens that it might have.
inline Spread packed(Spread s) {
  const std::int64_t most = s.most();
  s.capacity = most + 1, s.max_token_rows = s.ranks() * most;
  return s;
}

/// What rank `rank` has of a case.
inline HostCase share_of(const HostCase& whole, const Spread& spread, int rank) {
  HostCase c = whole;
  const std::int64_t first = spread.first(rank), count = spread.tokens[static_cast<std::size_t>(rank)];
  const auto rows = [&](const auto& all, std::int64_t width) {
    return std::decay_t<decltype(all)>(all.begin() + first * width, all.begin() + (first + count) * width);
  };
  const auto experts = [&](const std::vector<bf16>& all) {
    const std::size_t each = all.size() / static_cast<std::size_t>(spread.ranks());
    return std::vector<bf16>(all.begin() + each * rank, all.begin() + each * (rank + 1));
  };
  c.config.tokens = count;
  c.x = rows(whole.x, whole.config.dim), c.d_output = rows(whole.d_output, whole.config.dim);
  c.ids = rows(whole.ids, whole.config.slots), c.weights = rows(whole.weights, whole.config.slots);
  if (!whole.mask.empty()) c.mask = rows(whole.mask, 1);
  c.gate_up = experts(whole.gate_up), c.down = experts(whole.down);
  c.gate_up_bias = experts(whole.gate_up_bias), c.down_bias = experts(whole.down_bias);
  return c;
}

/// With MOEREF_KERNELS_WAIT threads meet as processes do.
inline GroupOptions group_options(Transport transport) {
  return {transport, std::chrono::seconds(20), "group of experts",
          std::getenv("MOEREF_KERNELS_WAIT") != nullptr};
}

/// One rank: its arrays, and its windows or those that others use too. All that a group delivers goes through
/// one stream.
class RankedExperts {
 public:
  struct Windows {
    Window kept, transient;
    Windows(const ExpertParallelConfig& config, Group& group)
        : kept(kept_window(config, group)), transient(transient_window(config, group)) {}
  };

  RankedExperts(const HostCase& whole, const Spread& spread, Group& group, cudaStream_t stream,
                std::shared_ptr<const Windows> windows = nullptr)
      : stream(stream),
        group_(group),
        spread_(spread),
        config{share_of(whole, spread, group.rank()).config,
               spread.ranks(),
               spread.most(),
               spread.exchange,
               spread.chunks,
               spread.max_rows,
               spread.max_token_rows},
        own(share_of(whole, spread, group.rank())),
        saved_(saved_bytes(config)),
        forward_work_(forward_workspace_bytes(config)),
        backward_work_(backward_workspace_bytes(config)),
        windows_(windows ? std::move(windows) : std::make_shared<const Windows>(config, group)) {
    saved_.poison(), forward_work_.poison(), backward_work_.poison();
    // Not for the device: another rank's kernel there may wait for this one.
    check(cudaStreamSynchronize(nullptr), "the arrays of a rank");
  }
  ~RankedExperts() { cudaStreamSynchronize(stream); }

  void forward() {
    experts_forward(config, own.parameters(), own.input(), own.output.data(), group_, pair(), saved_.data(),
                    forward_work_.data(), stream);
  }
  void backward() {
    experts_backward(config, own.parameters(), own.input(), own.d_output.data(), group_, pair(),
                     saved_.data(),
                     {own.dx.data(), own.dweights.data(), own.dgate_up.data(), own.ddown.data(),
                      own.dgate_up_bias.data_or_null(), own.ddown_bias.data_or_null()},
                     backward_work_.data(), stream);
  }
  void wait() { group_.synchronize(stream); }
  std::shared_ptr<const Windows> windows() const { return windows_; }

  const cudaStream_t stream;

 private:
  ExpertParallelWindows pair() const { return {&windows_->kept, &windows_->transient}; }

  Group& group_;
  Spread spread_;

 public:
  ExpertParallelConfig config;
  DeviceExperts own;

 private:
  DeviceArray<char> saved_, forward_work_, backward_work_;
  std::shared_ptr<const Windows> windows_;
};

/// All results of a run on ranks, in the order of DeviceExperts::bits, those of the ranks one after another.
using NamedBits = std::vector<std::pair<const char*, std::vector<char>>>;
inline NamedBits put_together(const std::vector<NamedBits>& ranks) {
  NamedBits out = ranks.front();
  for (std::size_t r = 1; r < ranks.size(); ++r)
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i].second.insert(out[i].second.end(), ranks[r][i].second.begin(), ranks[r][i].second.end());
  return out;
}

inline NamedBits run_spread(const HostCase& c, const Spread& spread) {
  std::vector<NamedBits> results(spread.tokens.size());
  run_ranks(spread.ranks(), [&](const std::shared_ptr<Bootstrap>& world) {
    const auto group = Group::create(world, group_options(spread.transport));
    const Stream stream;
    RankedExperts rank(c, spread, *group, stream.get());
    rank.forward();
    rank.backward();
    rank.wait();
    results[static_cast<std::size_t>(world->rank())] = rank.own.bits();
  });
  return put_together(results);
}

/// The error of a step that does not fit, after which a step of `light`, on the same windows, does; twice.
/// Ranks meet between the steps.
template <class Check>
void expect_overflow_then_fit(Bootstrap& world, RankedExperts& heavy, RankedExperts& light,
                              const Check& check_error) {
  for (int round = 0; round < 2; ++round) {
    heavy.forward();
    heavy.backward();
    try {
      heavy.wait();
      ADD_FAILURE() << "rank " << world.rank() << " got no error";
    } catch (const RowOverflow& e) {
      check_error(e);
    }
    world.meet();
    light.forward();
    light.backward();
    EXPECT_NO_THROW(light.wait());
    world.meet();
  }
}

/// Small integers: every product and sum is exact in fp32, and so are results in any order of addition.
inline HostCase integer_case(ExpertsConfig f, std::uint64_t seed) {
  f.activation = Activation::relu2, f.dtype = DataType::float32, f.path = ExpertsPath::portable;
  HostCase c = make_case(f, true, seed);
  std::mt19937_64 rng(seed);
  std::uniform_int_distribution<int> digit(-1, 1);
  for (auto* all : {&c.x, &c.d_output, &c.gate_up, &c.down, &c.gate_up_bias, &c.down_bias})
    for (bf16& v : *all) v = __float2bfloat16(static_cast<float>(digit(rng)));
  for (float& w : c.weights) w = std::ldexp(1.0f, digit(rng));
  return c;
}

}  // namespace moeref::cuda::test
