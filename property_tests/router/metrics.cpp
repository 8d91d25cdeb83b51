// Load-balance metrics.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

constexpr const char* kPerLayer[] = {"outputs/cv", "outputs/dead_expert_frac", "outputs/expert_diversity"};

void expect_value(const Answer& a, std::string_view name, std::int64_t i, double want,
                  std::string_view text) {
  // Means and roots of a few terms, in double here; the bound is relative and fails at 0.
  expect_near(name, i, a.at(name, i), want, a.bound(name, i) + 1e-6 * std::abs(want) + 1e-6, text);
}

Call with_loads(const Call& call, const Tensor& loads) {
  Call out = call;
  out.tensors["inputs/expert_load"] = loads;
  return out;
}

void load_permutation(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const std::vector<std::int64_t> order = permutation(d.seed, d.E);
  Call moved = call;
  take_in(moved, "inputs/expert_load", 1, order);
  const Answer a(impl, call), b(impl, moved);
  for (const auto& [name, tensor] : a.results()) {
    if (name == "outputs/expert_utilization") continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_value(b, name, i, tensor[i], "experts were permuted");
  }
  for (std::int64_t l = 0; l < d.T; ++l)
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_value(b, "outputs/expert_utilization", l * d.E + e,
                   a.at("outputs/expert_utilization", l * d.E + order[static_cast<std::size_t>(e)]),
                   "experts were permuted");
}

void layer_permutation(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const std::vector<std::int64_t> order = permutation(d.seed, d.T);
  Call moved = call;
  take_in(moved, "inputs/expert_load", 0, order);
  const Answer a(impl, call), b(impl, moved);
  for (const auto& [name, tensor] : a.results())
    if (tensor.shape().empty()) expect_value(b, name, 0, tensor[0], "layers were permuted: aggregates stay");
  for (const char* name : kPerLayer)
    for (std::int64_t l = 0; l < d.T; ++l)
      expect_value(b, name, l, a.at(name, order[static_cast<std::size_t>(l)]), "layers were permuted");
}

void load_scale(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), b(impl, with_loads(call, scaled(call.tensors.at("inputs/expert_load"), 2.0)));
  for (const auto& [name, tensor] : a.results())
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_value(b, name, i, tensor[i], "all loads were doubled");
}

void extremes(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const auto experts = static_cast<double>(d.E);
  Tensor single(DType::int64, {d.T, d.E});
  for (std::int64_t l = 0; l < d.T; ++l)
    single.set(l * d.E + static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.E)), 96.0);
  const Answer equal(impl, with_loads(call, filled(DType::int64, {d.T, d.E}, 16.0))),
      one(impl, with_loads(call, single)), none(impl, with_loads(call, Tensor(DType::int64, {d.T, d.E})));
  for (std::int64_t l = 0; l < d.T; ++l) {
    expect_value(equal, "outputs/cv", l, 0.0, "equal loads do not vary");
    expect_value(equal, "outputs/dead_expert_frac", l, 0.0, "equal loads: no expert is dead");
    expect_value(equal, "outputs/expert_diversity", l, 1.0, "equal loads are as diverse as can be");
    expect_value(one, "outputs/cv", l, d.E > 1 ? std::sqrt(experts) : 0.0, "one expert with all the load");
    expect_value(one, "outputs/dead_expert_frac", l, (experts - 1.0) / experts,
                 "one expert with all the load");
    expect_value(one, "outputs/expert_diversity", l, 1.0 / experts, "one expert with all the load");
    expect_value(none, "outputs/cv", l, 0.0, "no load at all");
    expect_value(none, "outputs/dead_expert_frac", l, 1.0, "no load at all");
    expect_value(none, "outputs/expert_diversity", l, 0.0, "no load at all");
  }
}

void definitions(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix load = matrix_of(call.tensors.at("inputs/expert_load"));
  const auto experts = static_cast<double>(d.E);
  for (std::int64_t l = 0; l < d.T; ++l) {
    double total = 0.0, squares = 0.0, dead = 0.0, entropy = 0.0;
    for (std::int64_t e = 0; e < d.E; ++e) total += load.at(l, e);
    for (std::int64_t e = 0; e < d.E; ++e) {
      const double share = total > 0.0 ? load.at(l, e) / total : 0.0;
      squares += std::pow(load.at(l, e) - total / experts, 2);
      dead += load.at(l, e) == 0.0;
      if (share > 0.0) entropy -= share * std::log(share);
      expect_value(a, "outputs/expert_utilization", l * d.E + e, share * experts, "load over the mean load");
    }
    const bool varies = total > 0.0 && d.E > 1;
    expect_value(a, "outputs/cv", l, varies ? std::sqrt(squares / (experts - 1.0)) * experts / total : 0.0,
                 "sample deviation over the mean");
    expect_value(a, "outputs/dead_expert_frac", l, dead / experts, "share of experts without load");
    expect_value(a, "outputs/expert_diversity", l, total > 0.0 ? std::exp(entropy) / experts : 0.0,
                 "exponential of the entropy, over E");
  }
}

/// Aggregates from the implementation's own values per layer.
void aggregates(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const auto sorted = [&](std::string_view name) {
    std::vector<double> v = a[name].doubles();
    std::ranges::sort(v);
    return v;
  };
  const auto mean = [](const std::vector<double>& v) {
    return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
  };
  const auto median = [](const std::vector<double>& v) {
    return (v[(v.size() - 1) / 2] + v[v.size() / 2]) / 2.0;
  };
  const std::vector<double> cv = sorted("outputs/cv"), u = sorted("outputs/expert_utilization"),
                            dead = sorted("outputs/dead_expert_frac"),
                            diversity = sorted("outputs/expert_diversity");
  const std::pair<const char*, double> want[] = {{"cv_mean", mean(cv)},
                                                 {"cv_median", median(cv)},
                                                 {"cv_min", cv.front()},
                                                 {"cv_max", cv.back()},
                                                 {"expert_utilization_median", median(u)},
                                                 {"expert_utilization_min", u.front()},
                                                 {"expert_utilization_max", u.back()},
                                                 {"dead_expert_frac_mean", mean(dead)},
                                                 {"expert_diversity_mean", mean(diversity)},
                                                 {"expert_diversity_min", diversity.front()}};
  for (const auto& [name, value] : want)
    expect_value(a, std::string("outputs/") + name, 0, value, "aggregate over layers");
  if (u.size() < 4) return;
  expect_value(a, "outputs/expert_utilization_p25", 0, u[u.size() / 4],
               "element n/4 of all utilisations sorted");
  expect_value(a, "outputs/expert_utilization_p75", 0, u[3 * u.size() / 4],
               "element 3n/4 of all utilisations sorted");
}

const Property kMetricsProperties[] = {
    {"L1",
     "metric_definitions",
     {Component::metrics},
     PropertyClass::bounded,
     "variation, utilisation, dead share and diversity of every layer as defined",
     {"n for n - 1", "log base"},
     nullptr,
     definitions},
    {"L2",
     "metric_aggregates",
     {Component::metrics},
     PropertyClass::bounded,
     "aggregates are those of the values of the layers",
     {"O33", "layers concatenated"},
     nullptr,
     aggregates},
    {"L3",
     "metric_extremes",
     {Component::metrics},
     PropertyClass::bounded,
     "equal loads, one expert, no load at all",
     {"0 / 0", "A7"},
     nullptr,
     extremes},
    {"L4",
     "metric_scale",
     {Component::metrics},
     PropertyClass::bounded,
     "metrics do not depend on the number of tokens",
     {"normaliser"},
     nullptr,
     load_scale},
    {"L5",
     "metric_expert_permutation",
     {Component::metrics},
     PropertyClass::bounded,
     "permuted experts have permuted utilisations and the same metrics",
     {"axis mix"},
     nullptr,
     load_permutation},
    {"L6",
     "metric_layer_permutation",
     {Component::metrics},
     PropertyClass::bounded,
     "permuted layers have permuted metrics and the same aggregates",
     {"axis mix"},
     nullptr,
     layer_permutation},
};

}  // namespace

std::span<const Property> metrics_properties() { return kMetricsProperties; }

}  // namespace moeref
