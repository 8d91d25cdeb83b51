// From a descriptor to a golden file.
#pragma once

#include "golden/catalogue/case_builder.hpp"
#include "moeref/golden_file.hpp"
#include "moeref/reference.hpp"

namespace moeref {

/// A golden file whose results are still those of the evaluation, so that a layer of real width is held only
/// once: write_golden(path, file, evaluation). Stages are kept for the gate alone.
struct GeneratedCase {
  GoldenFile file;
  Evaluation evaluation;
};
GeneratedCase generate_case(const CaseSpec& spec);

/// The same with the results in the file.
GoldenFile generate_golden(const CaseSpec& spec);

}  // namespace moeref
