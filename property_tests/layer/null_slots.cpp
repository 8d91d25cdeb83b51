// Slots without an expert (SPEC 10), under either of their ids: no part of them is used, and all else stays.
#include <algorithm>
#include <vector>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

std::vector<std::int64_t> null_slots_of(const Call& call) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) ids = &call.tensors.at("inputs/replay_indices");
  const auto null = static_cast<double>(parse_moe_config(call.config).null_id());
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < ids->size(); ++i)
    if ((*ids)[i] == null) out.push_back(i);
  if (out.empty()) throw Discarded("every slot has an expert");
  return out;
}

/// The same call with weights of null slots that a port must never meet.
void null_slots_of_experts(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::vector<std::int64_t> null = null_slots_of(call);
  Call loud = call, documented = call;
  for (const std::int64_t slot : null) {
    loud.tensors.at("inputs/weights").set(slot, 1024.0);
    documented.tensors.at("inputs/indices").set(slot, -1.0);
  }
  documented.config.erase("null_slots");
  const Answer a(impl, call);
  expect_all_same(Answer(impl, loud), a, "weights of null slots are large");
  expect_all_same(a, Answer(impl, documented), "null slots have the id -1 of the documented system");
  if (call.backward)
    for (const std::int64_t slot : null)
      expect_equal("grads/weights", slot, a.at("grads/weights", slot), 0.0, "a null slot's weight");
}

/// Weights by the formula on the experts that are there, wherever the slots came back.
void null_slots_of_gate(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  null_slots_of(call);
  const std::int64_t null = parse_moe_config(call.config).null_id();
  const Answer a(impl, call);
  const Matrix weighed = weighed_scores_of(call);
  std::vector<double> load(static_cast<std::size_t>(d.E));
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<std::int64_t> ids, slots;
    const std::vector<std::int64_t> all = ids_of(a, t);
    for (std::size_t j = 0; j < all.size(); ++j) {
      const std::int64_t slot = t * d.k + static_cast<std::int64_t>(j);
      if (all[j] == null) {
        expect_equal("outputs/weights", slot, a.at("outputs/weights", slot), 0.0, "a null slot has weight 0");
        continue;
      }
      ids.push_back(all[j]);
      slots.push_back(slot);
      if (is_real(call, t)) load.at(static_cast<std::size_t>(all[j])) += 1.0;
    }
    const std::vector<double> want = weights_of(call, weighed, t, ids);
    for (std::size_t j = 0; j < slots.size(); ++j)
      expect_near("outputs/weights", slots[j], a.at("outputs/weights", slots[j]), want[j],
                  a.bound("outputs/weights", slots[j]) + 1e-11 * want[j],
                  "weights are made of the experts that are there");
  }
  for (std::int64_t e = 0; e < d.E; ++e)
    expect_equal("outputs/expert_load", e, a.at("outputs/expert_load", e), load[static_cast<std::size_t>(e)],
                 "null slots are counted nowhere");
}

void null_slots(Implementation& impl, const Descriptor& d) {
  (d.component == Component::gate ? null_slots_of_gate : null_slots_of_experts)(impl, d);
}

void arrange_null_slots(Descriptor& d) {
  if (d.config.null_slots == NullSlots::given)
    d.config.null_slots = d.seed % 2 == 0 ? NullSlots::minus_one : NullSlots::n_routed_experts;
  d.ids = Ids::absent_slots;
  d.replay = d.component == Component::gate;
  d.rows = 0;
  d.T = std::max<std::int64_t>(d.T, 2);
  d.biased_weights = false;
}

const Property kNullSlotProperties[] = {
    {"C5",
     "null_slots",
     {Component::gate, Component::experts},
     PropertyClass::bounded,
     "slots without an expert have weight 0, load and gradient nowhere, and leave the other slots as they "
     "are",
     {"id -1 read as the last expert", "id E read past the last expert"},
     arrange_null_slots,
     null_slots,
     Passes::either},
};

}  // namespace

std::span<const Property> null_slot_properties() { return kNullSlotProperties; }

}  // namespace moeref
