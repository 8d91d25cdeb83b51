#include "golden/catalogue/generate.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

bool holds_nonfinite(const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return false;
  constexpr std::int64_t kBlock = 1 << 16;
  std::atomic<bool> found{false};
  parallel_pieces(tensor.size(), kBlock, [&](std::int64_t first, std::int64_t size) {
    if (found) return;
    std::vector<double> block(static_cast<std::size_t>(size));
    tensor.read(first, block);
    if (!std::ranges::all_of(block, [](double v) { return std::isfinite(v); })) found = true;
  });
  return found;
}

/// Nothing is known of what a NaN reaches: its bound is infinite.
void bound_nonfinite(BoundedTensor& result) {
  for (float& bound : result.bound)
    if (std::isnan(bound)) bound = std::numeric_limits<float>::infinity();
}

/// Moves a result out of the evaluation into tensors, one at a time, so that no more than one is held twice.
void take(const std::string& name, BoundedTensor& result, GoldenFile& file) {
  file.result_dtypes[name] = result.dtype;
  Tensor value = Tensor::of(result.shape, result.value);
  file.results[name] = is_floating(result.dtype) ? std::move(value) : value.cast(result.dtype);
  std::vector<double>().swap(result.value);
  Tensor bound(DType::float32, result.shape);
  std::ranges::copy(result.bound, bound.as<float>().begin());
  file.bounds[name] = std::move(bound);
  std::vector<float>().swap(result.bound);
}

}  // namespace

GeneratedCase generate_case(const CaseSpec& spec) {
  GeneratedCase out;
  out.file.case_name = spec.name;
  out.file.producer = "moeref " MOEREF_VERSION;
  out.file.flags = spec.flags;
  out.file.recipe = to_json(spec).dump();
  out.file.call = build_call(spec);
  out.file.allow_nonfinite = std::ranges::any_of(
      out.file.call.tensors, [](const auto& entry) { return holds_nonfinite(entry.second); });
  out.evaluation = evaluate(out.file.call);
  for (auto& [name, result] : out.evaluation.results) bound_nonfinite(result);
  // Stages of a whole layer would be larger than everything else in the file.
  if (spec.component != Component::gate)
    std::erase_if(out.evaluation.results,
                  [](const auto& entry) { return entry.first.starts_with("stages/"); });
  return out;
}

GoldenFile generate_golden(const CaseSpec& spec) {
  GeneratedCase generated = generate_case(spec);
  for (auto& [name, result] : generated.evaluation.results) take(name, result, generated.file);
  return std::move(generated.file);
}

}  // namespace moeref
