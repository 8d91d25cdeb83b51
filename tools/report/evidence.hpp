// What a failing case looks like around the first divergence: few numbers, kept for failing cases alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moeref/implementation.hpp"
#include "reference_cpu/verdict/reference_results.hpp"

namespace moeref {

/// One element near the worst one.
struct EvidenceValue {
  std::int64_t index = 0;  ///< row-major
  double value = 0.0, reference = 0.0, bound = 0.0;

  /// r as judge() has it; infinity where exactly one of the two numbers is finite.
  double ratio() const;
};

/// Largest r in each cell of a tensor seen as a matrix (the last axis as columns, the others as rows),
/// coarsened where it is larger than the map.
struct RatioMap {
  std::int64_t rows = 0, columns = 0;                ///< cells
  std::int64_t rows_a_cell = 1, columns_a_cell = 1;  ///< elements
  std::vector<double> worst;                         ///< [rows, columns]
};

/// Who chose which experts.
struct RoutingEvidence {
  struct Token {
    std::int64_t token = 0;
    std::vector<std::int64_t> reference, port;  ///< expert ids
  };

  std::string indices;  ///< "outputs/indices"
  std::int64_t tokens = 0, experts = 0;
  std::int64_t differing = 0;  ///< tokens with other experts, or with ids that are none
  std::vector<std::int64_t> reference_load, port_load;  ///< [experts] tokens that chose each
  std::vector<Token> shown;  ///< all where they are few, else those that differ, in order
};

struct Evidence {
  std::string tensor;  ///< the first that fails
  Shape shape;
  std::vector<EvidenceValue>
      around;               ///< consecutive elements, the worst among them; empty for ids and wrong shapes
  std::int64_t worst = -1;  ///< its index
  RatioMap ratios;
  std::vector<RoutingEvidence> routing;  ///< empty where the case selects no experts
};

/// `candidate` is what was judged, `tensor` its first failing tensor and `worst` the element to blame there
/// (negative = none). Compared on the candidate's own
/// routing, as judge() does.
Evidence collect_evidence(ReferenceResults& reference, const NamedTensors& candidate,
                          const std::string& tensor, std::int64_t worst);

}  // namespace moeref
