// What a port says of itself, in the table of a library or in an exec port's answer to "hello".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moeref/float32_products.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

struct Capabilities {
  std::string name, version;
  std::vector<Component> components;
  bool backward = true;
  std::vector<DType> dtypes;
  std::vector<std::string> stages;  ///< "logits", ...
  bool lowest_id_first = false;     ///< its tie rule; otherwise open
  DType accumulation = DType::float32;
  std::optional<DType> storage;  ///< of intermediates; none = the case's dtype
  bool deterministic = false;
  bool batch_invariant = false;    ///< a token gives the same bits alone and in any batch
  bool counter_generator = false;  ///< init draws from the reference's generator; otherwise from its own
  Float32Products products = Float32Products::float32;  ///< to what it rounds their operands
  std::vector<std::string> conventions;  ///< that it knows (reference_cpu/call/conventions.hpp)
  std::int64_t max_ranks = 1;
  std::int64_t max_processes = 1;  ///< of libraries

  /// Whether its sums are no better than plain float32, so that it cannot equal the fp64 reference
  /// everywhere.
  bool rounds_its_sums() const { return accumulation != DType::float64; }

  /// How many processes make such a call: one per rank where there may be so many, else one.
  std::int64_t processes(const Call& call) const;

  /// Nothing if these claim such calls, else what is missing, in words.
  std::optional<std::string> lack(const Call& call) const;
};

/// All fields but the name may be missing: then every component, both passes, every dtype, no stages, ties
/// open, float32 accumulation, the case's storage, not deterministic, not batch invariant, a generator of its
/// own for init, float32 products of operands as they are, one rank, one process. Throws InputError naming
/// the field, its value and what would be right. Unknown fields are left for later versions.
Capabilities parse_capabilities(const nlohmann::json& hello);

}  // namespace moeref
