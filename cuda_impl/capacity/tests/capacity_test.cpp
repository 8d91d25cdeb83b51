// Which slots are dropped, against the definition.
#include "moeref/cuda/capacity.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "cuda_impl/tests/device.hpp"

namespace moeref::cuda::test {
namespace {

struct Routing {
  std::vector<int> ids;
  std::vector<float> weights;
  std::vector<std::uint8_t> mask;
};

/// Few different weights, NaN among them, so that equal ones meet; one id in E + 2 is of no expert; every
/// expert but the first has few slots.
Routing skewed(const CapacityShape& s, std::mt19937& rng) {
  Routing out{std::vector<int>(s.tokens * s.slots), std::vector<float>(s.tokens * s.slots),
              std::vector<std::uint8_t>(s.tokens)};
  for (auto& m : out.mask) m = rng() % 8 != 0;
  for (int& id : out.ids) id = rng() % 4 == 0 ? int(rng() % (s.experts + 2)) - 1 : 0;
  for (float& w : out.weights) w = rng() % 50 == 0 ? NAN : float(int(rng() % 40)) * 0.25f - 3.0f;
  return out;
}

std::vector<int> by_definition(const CapacityShape& s, const CapacityRule& rule, const Routing& in,
                               int null_id) {
  std::vector<int> out = in.ids;
  for (int e = 0; e < s.experts; ++e) {
    std::vector<std::size_t> slots;
    for (std::size_t i = 0; i < in.ids.size(); ++i)
      if (in.ids[i] == e && in.mask[i / s.slots]) slots.push_back(i);
    std::stable_sort(slots.begin(), slots.end(), [&](std::size_t a, std::size_t b) {
      if (rule.order == CapacityOrder::token) return false;
      if (rule.order == CapacityOrder::choice) return a % s.slots < b % s.slots;
      const float left = in.weights[a], right = in.weights[b];
      return std::isnan(left) ? !std::isnan(right) : left > right;
    });
    const auto kept = static_cast<std::size_t>(rule.capacity(s.tokens, s.slots, s.experts));
    for (std::size_t i = kept; i < slots.size(); ++i) out[slots[i]] = null_id;
  }
  return out;
}

TEST(Capacity, FollowsTheDefinition) {
  MOEREF_NEEDS_DEVICE();
  std::mt19937 rng(8);
  for (const CapacityShape s : {CapacityShape{0, 4, 2}, {1, 1, 1}, {40, 6, 3}, {700, 9, 8}, {3000, 130, 2}})
    for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::choice, CapacityOrder::weight})
      for (const std::int64_t capacity : {1, 3, 200, 1100}) {
        SCOPED_TRACE(testing::Message() << s.tokens << " x " << s.slots << " over " << s.experts << " order "
                                        << int(order) << " capacity " << capacity);
        const CapacityRule rule{capacity, 0.0, 0, order};
        const Routing in = skewed(s, rng);
        const DeviceArray<int> ids(in.ids), dispatched(in.ids.size());
        const DeviceArray<float> weights(in.weights);
        const DeviceArray<std::uint8_t> mask(in.mask);
        const DeviceArray<char> work(capacity_workspace_bytes(s));
        limit_capacity(s, rule, ids.data(), weights.data(), mask.data(), s.experts, dispatched.data(),
                       work.data(), nullptr);
        check(cudaDeviceSynchronize(), "limit_capacity");
        EXPECT_EQ(dispatched.get(), by_definition(s, rule, in, s.experts));
      }
}

TEST(Capacity, AShareOfTheSlots) {
  const auto share = [](double factor, std::int64_t least, std::int64_t tokens) {
    return CapacityRule{0, factor, least}.capacity(tokens, 2, 6);
  };
  EXPECT_EQ(share(1.0, 0, 10), 4);
  EXPECT_EQ(share(1.25, 0, 12), 5);
  EXPECT_EQ(share(0.5, 3, 10), 3);
  EXPECT_EQ(share(1e300, 0, 10), 20);
  EXPECT_EQ((CapacityRule{7, 0.0, 9}.capacity(10, 2, 6)), 7);
}

}  // namespace
}  // namespace moeref::cuda::test
