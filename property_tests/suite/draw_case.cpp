#include "property_tests/suite/draw_case.hpp"

namespace moeref {
namespace {

SizeRange range_of(const Property& property, SizeRange range) {
  if (property.sizes != Sizes::ladder || range.scale != Scale::small) return range;
  range.ladder_percent = 100;
  range.multiply_adds *= 16.0;
  return range;
}

}  // namespace

Descriptor draw_case(const Property& property, Component component, std::uint64_t bits,
                     const SizeRange& range) {
  const SizeRange own = range_of(property, range);
  Descriptor drawn = draw_descriptor(component, bits, own);
  prepare(property, drawn);
  for (int round = 0; round < 8 && lower_to(drawn, own); ++round) prepare(property, drawn);
  return drawn;
}

}  // namespace moeref
