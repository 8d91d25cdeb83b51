// Calls drawn from a descriptor as golden files are, computed by the CUDA implementation and judged by the
// reference.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cuda_impl/adaptors/cuda_implementation.hpp"
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/tests/device.hpp"
#include "golden/catalogue/case_builder.hpp"
#include "moeref/verdict.hpp"

namespace moeref::cuda::test {

/// Every result within its bound, the routing included: cases are drawn with a margin that leaves an honest
/// implementation no choice.
inline void expect_agrees(const nlohmann::json& descriptor, const DeviceOptions& options = {}) {
  SCOPED_TRACE(descriptor.dump());
  const Call call = build_call(parse_case_spec(descriptor));
  CudaImplementation cuda(options);
  if (const auto reason = cuda.unsupported(call)) {
    ADD_FAILURE() << "not supported: " << *reason;
    return;
  }
  const CaseVerdict verdict = judge(call, cuda.run(call));
  EXPECT_EQ(verdict.verdict, Verdict::pass) << report(verdict);
}

/// `base` with the fields of `changes` put over it, objects field by field.
inline nlohmann::json with(nlohmann::json base, const nlohmann::json& changes) {
  base.merge_patch(changes);
  return base;
}

}  // namespace moeref::cuda::test
