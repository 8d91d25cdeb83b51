#include "property_tests/router/update_rounds.hpp"

namespace moeref {

double bias_before(const Answer& a, std::int64_t step, std::int64_t expert) {
  return step == 0 ? require(a.call().tensors, "params/e_score_correction_bias")[expert]
                   : a.at(bias_name(step - 1), expert);
}

std::vector<double> bias_delta(const Answer& a, std::int64_t step) {
  std::vector<double> out;
  for (std::int64_t e = 0; e < a.experts(); ++e)
    out.push_back(a.at(bias_name(step), e) - bias_before(a, step, e));
  return out;
}

void arrange_given(Descriptor& d) {
  d.replay = true;
  if (d.ids == Ids::duplicates || d.ids == Ids::absent_slots) d.ids = Ids::distinct;
  // Groups bind the selection only, and k with it.
  d.groups = d.limited = 1;
}

}  // namespace moeref
