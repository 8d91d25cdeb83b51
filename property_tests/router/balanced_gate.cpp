// The balanced gate that takes the place of a real one in performance experiments.
#include <algorithm>
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void in_turn(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const std::int64_t available = d.E - d.skip;
  for (std::int64_t i = 0; i < d.T * d.k; ++i) {
    expect_equal("outputs/indices", i, a.at("outputs/indices", i),
                 static_cast<double>(i % available + d.skip),
                 "without noise experts are dealt in turn, past those skipped");
    expect_near("outputs/weights", i, a.at("outputs/weights", i), 1.0 / static_cast<double>(d.k),
                a.bound("outputs/weights", i) + 1e-12, "without noise every weight is 1 / k");
  }
}

void arrange_in_turn(Descriptor& d) { d.noise = 0.0; }

void balanced(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  std::vector<std::int64_t> load(static_cast<std::size_t>(d.E));
  for (std::int64_t t = 0; t < d.T; ++t)
    for (const Slot& s : slots_of(a, t)) ++load[static_cast<std::size_t>(s.expert)];
  const auto [least, most] = std::minmax_element(load.begin() + d.skip, load.end());
  if (*most - *least > 1)
    fail({"outputs/indices", -1, static_cast<double>(*most), static_cast<double>(*least), 1.0,
          "without noise loads differ by one at most"});
}

void balanced_weights(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t t = 0; t < d.T; ++t) {
    double sum = 0.0, bound = 1e-12;
    for (const Slot& s : slots_of(a, t)) {
      if (s.expert < d.skip)
        fail({"outputs/indices", s.index, static_cast<double>(s.expert), static_cast<double>(d.skip), 0.0,
              "a skipped expert"});
      const double least = (1.0 - d.noise) / static_cast<double>(d.k);
      if (!(s.weight >= least - s.bound - 1e-12))
        fail({"outputs/weights", s.index, s.weight, least, s.bound, "a weight below (1 - noise) / k"});
      sum += s.weight;
      bound += s.bound;
    }
    expect_near("outputs/weights", t * d.k, sum, 1.0, bound, "weights of a token sum to 1");
  }
}

/// The same draws: equal ids, and weights that differ by the rounding of their sum at most.
void expect_unchanged(const Answer& a, const Answer& b, std::string_view text) {
  expect_identical(a, b, "outputs/indices", text);
  expect_same(a, b, "outputs/weights", text);
}

void mask_ignored(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  const Answer a(impl, call), b(impl, open);
  expect_unchanged(a, b, "the mask is ignored");
}

void arrange_mask(Descriptor& d) {
  if (d.mask == Mask::absent) d.mask = Mask::random;
}

/// The seed is the sum of the first four values of x; nothing else of x counts.
void seed_of_x(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call other = call;
  Tensor& x = other.tensors.at("inputs/x");
  for (std::int64_t i = 4; i < x.size(); ++i) x.set(i, 1.0 - x[i]);
  const Answer a(impl, call), b(impl, other);
  expect_unchanged(a, b, "values of x past the first four were changed");
}

/// Another sum of the first four gives other draws: with 16 slots or more two streams cannot agree in all
/// weights.
void other_seed(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call other = call;
  Tensor& x = other.tensors.at("inputs/x");
  x.set(0, x[0] + 1.0);
  const Answer a(impl, call), b(impl, other), again(impl, call);
  expect_unchanged(a, again, "the same call again");
  if (a["outputs/weights"] == b["outputs/weights"] && a["outputs/indices"] == b["outputs/indices"])
    fail({"outputs/weights", -1, 0.0, 0.0, 0.0,
          "another sum of the first four values of x gave the same noise"});
}

void arrange_noise(Descriptor& d) {
  if (d.noise == 0.0) d.noise = 0.5;
}

void arrange_other_seed(Descriptor& d) {
  arrange_noise(d);
  d.T = std::max<std::int64_t>(d.T, 8);
  d.E = std::max<std::int64_t>(d.E, 4);
  d.skip = 0;
  d.k = std::clamp<std::int64_t>(d.k, 2, d.E);
}

void noise_scale(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call full = call;
  full.options["noise"] = 1.0;
  const Answer a(impl, call), b(impl, full);
  const double uniform = 1.0 / static_cast<double>(d.k);
  for (std::int64_t i = 0; i < d.T * d.k; ++i)
    expect_near("outputs/weights", i, a.at("outputs/weights", i),
                (1.0 - d.noise) * uniform + d.noise * b.at("outputs/weights", i),
                a.bound("outputs/weights", i) + d.noise * b.bound("outputs/weights", i) + 1e-6 * uniform,
                "weights lie between 1 / k and those of noise 1, as far as the noise says");
}

const Property kBalancedGateProperties[] = {
    {"F1",
     "experts_in_turn",
     {Component::fake_balanced_gate},
     PropertyClass::exact,
     "without noise experts come in turn, with weights 1 / k",
     {"skip ignored"},
     arrange_in_turn,
     in_turn},
    {"F2",
     "balanced_loads",
     {Component::fake_balanced_gate},
     PropertyClass::exact,
     "without noise loads differ by one at most",
     {"skip ignored"},
     arrange_in_turn,
     balanced},
    {"F3",
     "balanced_well_formed",
     {Component::fake_balanced_gate},
     PropertyClass::bounded,
     "different experts past those skipped, weights that sum to 1 and are at least (1 - noise) / k",
     {"A37"},
     nullptr,
     balanced_weights},
    {"F4",
     "mask_ignored",
     {Component::fake_balanced_gate},
     PropertyClass::exact,
     "the mask changes nothing",
     {"mask applied"},
     arrange_mask,
     mask_ignored},
    {"F5",
     "seed_of_x",
     {Component::fake_balanced_gate},
     PropertyClass::exact,
     "noise depends on the first four values of x alone",
     {"seed of all values"},
     arrange_noise,
     seed_of_x},
    {"F6",
     "noise_of_seed",
     {Component::fake_balanced_gate},
     PropertyClass::exact,
     "the same x gives the same noise, another sum of its first values another one",
     {"constant seed", "generator kept between calls"},
     arrange_other_seed,
     other_seed},
    {"F7",
     "noise_scale",
     {Component::fake_balanced_gate},
     PropertyClass::bounded,
     "weights are interpolated between balanced and fully random",
     {"noise applied twice"},
     arrange_noise,
     noise_scale},
};

}  // namespace

std::span<const Property> balanced_gate_properties() { return kBalancedGateProperties; }

}  // namespace moeref
