// Initialisation: which parameters are drawn, from what, and that a seed means the same values however a
// layer is cut.
//
// False alarms: every statistical test here refuses with a probability of at most kFalseAlarm on correct
// draws, by bounds that hold for every sample size: Laurent and Massart (2000, lemma 1) for chi-square,
// Massart (1990) for the distribution function. At 1000 tests a run that is one false alarm in a million
// runs.
#include "reference_cpu/components/init.hpp"

#include <algorithm>
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

constexpr double kFalseAlarm = 1e-9;

bool is_bias(std::string_view name) { return name.ends_with("bias"); }

/// Neither drawn nor zeroed: what the documented system leaves as it was.
bool is_untouched(std::string_view name) {
  return name == "outputs/shared_expert_gate.weight" ||
         (name.starts_with("outputs/shared_experts.") && is_bias(name));
}
bool is_drawn(std::string_view name) { return !is_bias(name) && !is_untouched(name); }

void parts(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  call.options["fill_before"] = 0.5;
  const Answer a(impl, call);
  for (const auto& [name, tensor] : a.results()) {
    if (is_drawn(name)) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_equal(name, i, tensor[i], is_untouched(name) ? 0.5 : 0.0,
                   is_untouched(name) ? "this parameter is not initialised: it keeps what it held"
                                      : "biases start at 0");
  }
}

/// Extents at which a tensor is worth a statistic.
void arrange_large(Descriptor& d) {
  d.E = std::max<std::int64_t>(d.E, 8);
  d.D = std::max<std::int64_t>(d.D, 32);
  d.I = std::max<std::int64_t>(d.I, 8);
  if (d.latent > 0) d.latent = std::max<std::int64_t>(d.latent, 16);
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

void normal_values(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const double x = std::log(2.0 / kFalseAlarm);
  for (const auto& [name, tensor] : a.results()) {
    if (!is_drawn(name)) continue;
    std::vector<double> z = tensor.doubles();
    const auto n = static_cast<double>(z.size());
    double sum = 0.0, squares = 0.0;
    for (double& value : z) {
      value /= d.std;
      sum += value;
      squares += value * value;
    }
    // Rounding to 16 bits moves a value by 2^-9 of itself at most.
    const double rounding = 4.0 * unit_roundoff(tensor.dtype());
    expect_near(name, -1, sum / n, 0.0, std::sqrt(2.0 * x / n) + rounding, "mean in units of init_std");
    expect_near(name, -1, squares / n, 1.0, 2.0 * std::sqrt(x / n) + 2.0 * x / n + 4.0 * rounding,
                "mean square in units of init_std");
    std::ranges::sort(z);
    double distance = 0.0;
    for (std::size_t i = 0; i < z.size(); ++i) {
      const double p = normal_distribution(z[i]);
      distance = std::max(
          {distance, std::abs(p - static_cast<double>(i) / n), std::abs(static_cast<double>(i + 1) / n - p)});
    }
    expect_near(name, -1, distance, 0.0, std::sqrt(x / (2.0 * n)) + rounding,
                "distance of the distribution function from the normal one");
  }
}

/// Mean of the products of two samples of standard normals: half the difference of two chi-squares.
void expect_uncorrelated(std::span<const double> a, std::span<const double> b, double std,
                         std::string_view name, std::string_view text) {
  const std::size_t n = std::min(a.size(), b.size());
  if (n < 64) return;
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] / std * (b[i] / std);
  const double x = std::log(4.0 / kFalseAlarm), count = static_cast<double>(n);
  expect_near(name, -1, sum / count, 0.0, 2.0 * std::sqrt(x / count) + x / count + 0.02, text);
}

void uncorrelated(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  std::vector<std::pair<std::string, std::vector<double>>> drawn;
  for (const auto& [name, tensor] : a.results())
    if (is_drawn(name)) drawn.emplace_back(name, tensor.doubles());
  for (std::size_t i = 0; i < drawn.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      expect_uncorrelated(drawn[i].second, drawn[j].second, d.std, drawn[i].first,
                          "correlated with " + drawn[j].first);
  for (const auto& [name, values] : drawn) {
    if (!name.starts_with("outputs/experts.")) continue;
    const std::size_t size = values.size() / static_cast<std::size_t>(d.E);
    const std::span<const double> all(values);
    for (std::size_t e = 1; e < static_cast<std::size_t>(d.E); ++e)
      expect_uncorrelated(all.subspan(e * size, size), all.subspan((e - 1) * size, size), d.std, name,
                          "two experts are correlated");
  }
  Descriptor other = d;
  other.seed = d.seed + 1;
  const Answer b(impl, make_call(other));
  for (const auto& [name, values] : drawn)
    expect_uncorrelated(values, b[name].doubles(), d.std, name, "correlated with the next seed's values");
}

void rank_count(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call single = call;
  single.options.erase("ep_size");
  const Answer a(impl, call), b(impl, single);
  for (const auto& [name, tensor] : b.results())
    expect_identical(a, b, name, "experts are spread over ranks");
}

void arrange_ranks(Descriptor& d) {
  if (d.ranks < 2 || d.E % d.ranks != 0) {
    d.ranks = 2;
    d.E = std::max<std::int64_t>(2, d.E / 2 * 2);
  }
}

/// The experts of every rank, drawn by that rank alone.
void local_experts(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const CallOptions options = parse_call_options(call.options);
  const std::int64_t count = d.E / d.ranks;
  for (const auto& [name, tensor] : a.results()) {
    if (!name.starts_with("outputs/experts.")) continue;
    const std::int64_t size = tensor.size() / d.E;
    for (std::int64_t rank = 0; rank < d.ranks; ++rank) {
      const Tensor local = init_experts_local(
          moe_config(d), options, name.substr(std::string("outputs/").size()), rank * count, count);
      for (std::int64_t i = 0; i < local.size(); ++i) {
        const std::int64_t at = rank * count * size + i;
        expect_near(name, at, tensor[at], local[i], a.bound(name, at), "drawn by the expert's own rank");
      }
    }
  }
}

/// A layer with more experts starts with the same ones.
void more_experts(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), b(impl, with_config(call, {{"n_routed_experts", 2 * d.E}}));
  for (const auto& [name, tensor] : a.results()) {
    if (!name.starts_with("outputs/experts.") && name != "outputs/gate.weight") continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_equal(name, i, b.at(name, i), tensor[i], "twice as many experts: the first ones are the same");
  }
}

void arrange_more(Descriptor& d) { d.ranks = d.groups = d.limited = 1; }

void one_draw(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), wide(impl, with_config(call, {{"dtype", "float64"}, {"gate_dtype", nullptr}}));
  for (const auto& [name, tensor] : a.results())
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_near(name, i, tensor[i], wide.at(name, i), a.bound(name, i) + wide.bound(name, i),
                  "the same draw in another dtype");
}

void scaled_std(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call twice = call;
  twice.options["init_std"] = 2.0 * d.std;
  const Answer a(impl, call), b(impl, twice);
  for (const auto& [name, tensor] : a.results())
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_near(name, i, b.at(name, i), (is_drawn(name) ? 2.0 : 1.0) * tensor[i],
                  2.0 * a.bound(name, i) + b.bound(name, i), "twice the deviation");
}

const Property kInitProperties[] = {
    {"P34",
     "initialised_parts",
     {Component::init},
     PropertyClass::exact,
     "biases are 0, and what is not initialised keeps its values",
     {"A36", "A47"},
     nullptr,
     parts},
    {"P34",
     "normal_values",
     {Component::init},
     PropertyClass::statistical,
     "mean, mean square and distribution function of every drawn tensor, at a false-alarm rate of 1e-9 each",
     {"A44", "uniform in place of normal"},
     arrange_large,
     normal_values},
    {"P34",
     "init_rank_count",
     {Component::init},
     PropertyClass::exact,
     "values do not depend on the number of ranks",
     {"M21", "per-rank seeding"},
     arrange_ranks,
     rank_count},
    {"P34",
     "local_experts",
     {Component::init},
     PropertyClass::bounded,
     "every rank can draw its own experts alone",
     {"M21", "per-rank seeding"},
     arrange_ranks,
     local_experts,
     Passes::forward,
     Needs::counter_generator},
    {"P34",
     "more_experts",
     {Component::init},
     PropertyClass::exact,
     "more experts leave the first ones as they were",
     {"M21"},
     arrange_more,
     more_experts,
     Passes::forward,
     Needs::counter_generator},
    {"P35",
     "uncorrelated_parameters",
     {Component::init},
     PropertyClass::statistical,
     "tensors, experts and seeds are uncorrelated, at a false-alarm rate of 1e-9 each",
     {"shared seed", "M21"},
     arrange_large,
     uncorrelated},
    {"P35",
     "one_draw",
     {Component::init},
     PropertyClass::bounded,
     "every dtype holds the same draw, rounded",
     {"A44"},
     nullptr,
     one_draw,
     Passes::forward,
     Needs::counter_generator},
    {"P35",
     "init_deviation",
     {Component::init},
     PropertyClass::bounded,
     "twice init_std, twice the values",
     {"variance for deviation"},
     nullptr,
     scaled_std},
};

}  // namespace

std::span<const Property> init_properties() { return kInitProperties; }

}  // namespace moeref
