#include "golden/catalogue/case_size.hpp"

#include <unistd.h>

#include "moeref/signature.hpp"

namespace moeref {

double bytes_of(const CaseSpec& spec) {
  const Signature tensors = signature(spec.component, spec.config, spec.options, spec.tokens, spec.backward);
  double bytes = 0.0;
  const auto elements = [](const TensorSpec& tensor) {
    double count = 1.0;  // a product of extents may not fit 64 bits
    for (const std::int64_t extent : tensor.shape) count *= static_cast<double>(extent);
    return count;
  };
  for (const TensorSpec& tensor : tensors.inputs)
    bytes += elements(tensor) * static_cast<double>(size_of(tensor.dtype));
  for (const TensorSpec& tensor : tensors.outputs)
    bytes += elements(tensor) * (sizeof(double) + sizeof(float));
  return bytes;
}

double memory_of_machine() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

}  // namespace moeref
