#include "reference_cpu/verdict/compare.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "reference_cpu/verdict/element_chunks.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"

namespace moeref {
namespace {

/// The element with the largest r of a chunk; of several equal ones the first.
struct Worst {
  std::int64_t index = -1;
  double ratio = 0.0, value = 0.0;
  std::int64_t unbounded = 0;
};

Worst worst_of(std::int64_t first, std::span<const double> values, const BoundedTensor& reference) {
  Worst out;
  const double* exact = reference.value.data() + first;
  const float* bound = reference.bound.data() + first;
  for (std::size_t i = 0; i < values.size(); ++i) {
    out.unbounded += std::isinf(bound[i]) && std::isfinite(exact[i]);
    const double r = value_ratio(values[i], exact[i], bound[i]);
    if (out.index >= 0 && !(r > out.ratio)) continue;
    out.index = first + static_cast<std::int64_t>(i);
    out.ratio = r;
    out.value = values[i];
  }
  return out;
}

}  // namespace

TensorVerdict failed(const std::string& tensor, std::string finding) {
  TensorVerdict out;
  out.tensor = tensor;
  out.verdict = Verdict::fail;
  out.ratio = INFINITY;
  out.finding = std::move(finding);
  return out;
}

TensorVerdict compare(const std::string& tensor, const Tensor& candidate, const BoundedTensor& reference) {
  if (candidate.shape() != reference.shape)
    return failed(tensor, "has shape " + to_string(candidate.shape()) + " where " +
                              to_string(reference.shape) + " belongs");
  if (is_floating(reference.dtype) && !is_floating(candidate.dtype()))
    return failed(tensor,
                  "has dtype " + std::string(name(candidate.dtype())) + " where a floating one belongs");
  TensorVerdict out;
  out.tensor = tensor;
  out.elements = candidate.size();
  std::vector<Worst> chunks(static_cast<std::size_t>((candidate.size() + kChunk - 1) / kChunk));
  for_each_chunk(candidate, [&](std::int64_t first, std::span<const double> values) {
    chunks[static_cast<std::size_t>(first / kChunk)] = worst_of(first, values, reference);
  });
  for (const Worst& chunk : chunks) {
    out.unbounded += chunk.unbounded;
    if (out.index >= 0 && !(chunk.ratio > out.ratio)) continue;
    out.index = chunk.index;
    out.ratio = chunk.ratio;
    out.value = chunk.value;
  }
  if (out.index >= 0) {
    out.reference = reference.value[static_cast<std::size_t>(out.index)];
    out.bound = reference.bound[static_cast<std::size_t>(out.index)];
  }
  if (out.unbounded > 0) {
    out.verdict = Verdict::ambiguous;
    out.finding = std::to_string(out.unbounded) + " of " + std::to_string(out.elements) +
                  " elements have no finite bound: nothing is proven there";
  }
  if (out.ratio > 1.0) {
    out.verdict = Verdict::fail;
    out.finding = std::isfinite(out.value) == std::isfinite(out.reference) ? "outside the bound"
                  : std::isfinite(out.reference) ? "not finite where the reference is"
                                                 : "finite where the reference is not";
  }
  return out;
}

}  // namespace moeref
