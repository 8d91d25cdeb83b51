#include "reference_cpu/components/forced_stages.hpp"

namespace moeref {

std::optional<Bounded> ForcedStages::given(const std::string& name, const Bounded& like,
                                           const Shape& shape) const {
  const Tensor* tensor = given_ ? find(*given_, name) : nullptr;
  if (!tensor || tensor->shape() != shape || !is_floating(tensor->dtype())) return std::nullopt;
  Bounded stage(like.rows, like.cols, like.dtype);
  for (std::int64_t i = 0; i < tensor->size(); ++i) stage.set(i, known((*tensor)[i], Precision{}));
  return stage;
}

void ForcedStages::settle(const std::string& name, Bounded& own, const Shape& shape) const {
  std::optional<Bounded> stage = given(name, own, shape);
  if (!stage) return;
  results_->insert_or_assign(name, to_result(std::move(own), shape));
  own = *std::move(stage);
}

}  // namespace moeref
