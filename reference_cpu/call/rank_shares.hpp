// What each rank of a call on several ranks gets and what it gives, as the port interface says it
// (tools/port_abi/include/moeref/port.h, "Several processes per call").
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/signature.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {

/// How a tensor is divided over the ranks.
enum class Division : std::uint8_t {
  whole,    ///< every rank has all of it
  tokens,   ///< rows of the rank's own tokens: the first axis
  batch,    ///< the same where tokens are [B, S]: the first axes, which become [1, own tokens]
  experts,  ///< the rank's own experts: the first axis
};

/// The share of a tensor of the call, "inputs/x" or "grads/gate.weight", by the table.
Division division(const Call& call, std::string_view tensor);

class RankShares {
 public:
  /// Divides the call over so many ranks, which write `outputs` together; one rank has the call itself. The
  /// call must outlive this. Throws InputError for a call that cannot be divided so: tokens_per_rank without
  /// the sum T, E not divisible by ep_size.
  RankShares(const Call& call, std::int64_t ranks, std::vector<TensorSpec> outputs);

  std::size_t size() const { return outputs_.size(); }
  const Call& call(std::size_t rank) const { return shares_.empty() ? whole_ : shares_[rank]; }

  /// What the rank may write.
  const std::vector<TensorSpec>& outputs(std::size_t rank) const { return outputs_[rank]; }

  /// What the ranks write together.
  const Call& whole() const { return whole_; }
  const std::vector<TensorSpec>& whole_outputs() const { return whole_outputs_; }

  /// A rank's part of a tensor of the whole call.
  Tensor share(const std::string& name, const Tensor& tensor, std::size_t rank) const;
  /// The reverse: the results of the ranks [size()] put together; rank 0's where every rank has the whole.
  NamedTensors join(std::vector<NamedTensors> results) const;

 private:
  struct Slice {
    std::int64_t first = 0, count = 0;
  };
  /// The share's extents, and which of the tensor's rows it is; nothing for a whole tensor.
  std::optional<Slice> slice(std::string_view tensor, std::size_t rank) const;
  Shape share_shape(std::string_view tensor, const Shape& shape, Slice slice) const;

  const Call& whole_;
  std::vector<Call> shares_;                      ///< none for one rank
  std::vector<std::vector<TensorSpec>> outputs_;  ///< [rank]
  std::vector<TensorSpec> whole_outputs_;
  std::size_t token_axes_ = 1;         ///< of x
  std::vector<std::int64_t> offsets_;  ///< [ranks + 1], of tokens
  std::vector<ExpertRange> experts_;   ///< [ranks]
};

}  // namespace moeref
