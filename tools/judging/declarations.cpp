#include "tools/judging/declarations.hpp"

namespace moeref {

Declarations declared_by(const Port& port) {
  if (port.is_reference())
    return {.lowest_id_first = true, .repeatable = true, .batch_invariant = true, .counter_generator = true};
  Declarations out;
  if (const Capabilities* has = port.capabilities()) {
    out.lowest_id_first = has->lowest_id_first;
    out.repeatable = has->deterministic;
    out.batch_invariant = has->batch_invariant;
    out.rounding = has->rounds_its_sums();
    out.counter_generator = has->counter_generator;
    out.float32_products = has->products;
  }
  return out;
}

Call as_judged(Call call, Float32Products declared) {
  if (declared != Float32Products::float32) call.options["float32_products"] = name(declared);
  return call;
}

std::optional<DType> declared_accumulation(const Port& port) {
  if (port.is_reference()) return DType::float64;
  const Capabilities* has = port.capabilities();
  return has ? std::optional(has->accumulation) : std::nullopt;
}

}  // namespace moeref
