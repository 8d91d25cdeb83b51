// Rows of the latent size over their root mean square, at either place (SPEC 10, latent_norm).
#include <algorithm>
#include <cmath>

#include "property_tests/layer/latent_layer.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Every result against the formula. What double loses is far below any bound, and is measured by the largest
/// of a tensor's values.
void latent_norm(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  for (const auto& [name, want] : latent_layer(call)) {
    double largest = 0.0;
    for (std::int64_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::abs(want[i]));
    for (std::int64_t i = 0; i < want.size(); ++i)
      expect_near(name, i, a.at(name, i), want[i], a.bound(name, i) + 1e-11 * largest,
                  "latent rows are divided by their root mean square, times the weight");
  }
}

void arrange_latent_norm(Descriptor& d) {
  d.fake_gate = true;  // weights 1 / k
  arrange_given_routing(d);
  d.k = d.k >= 4 ? 4 : d.k >= 2 ? 2 : 1;
  d.shared = 0;
  d.poison = NonFinite::none;
  d.values = Values::rough;
  d.T = std::max<std::int64_t>(d.T, 1);
  d.latent = std::max<std::int64_t>(d.latent, 2);
  d.D = std::min<std::int64_t>(d.D, 16);
  if (d.D == d.latent) ++d.D;  // tells a mean over the model's width
  d.config.latent_norm = d.seed % 2 == 0 ? LatentNorm::before_fc2 : LatentNorm::after_fc1;
  const double eps[] = {1e-6, 0.125, 2.0};
  d.config.latent_norm_eps = eps[d.seed / 2 % 3];
}

const Property kLatentNormProperties[] = {
    {"C16",
     "latent_norm",
     {Component::moe},
     PropertyClass::bounded,
     "rows of the latent size are normalised behind fc1 or before fc2, gradients through the norm included",
     {"a norm at the other place", "a mean over another width", "a root taken for a constant"},
     arrange_latent_norm,
     latent_norm,
     Passes::either},
};

}  // namespace

std::span<const Property> latent_norm_properties() { return kLatentNormProperties; }

}  // namespace moeref
