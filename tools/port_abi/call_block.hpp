// One block of memory with all buffers of a call: a known pattern before and behind each, outputs filled with
// a value that no computation gives, so that what a port did to memory can be told afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moeref/signature.hpp"

namespace moeref {

/// What outputs hold before a call.
enum class Poison : std::uint8_t {
  nan,     ///< a NaN of a rare pattern: arithmetic on it shows in the results
  number,  ///< an ordinary number: code that looks for NaN, or adds to the buffer, behaves otherwise
};

struct BlockTensor {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
  std::size_t offset = 0, bytes = 0;  ///< in the block; offset is a multiple of 256
  bool output = false, optional = false;
};

class CallBlock {
 public:
  /// Bytes of pattern on either side of every buffer.
  static constexpr std::size_t kGuard = std::size_t{64} << 10;

  CallBlock(const Call& call, std::span<const TensorSpec> outputs);

  std::size_t size() const { return size_; }
  std::span<const BlockTensor> tensors() const { return tensors_; }

  /// Inputs, patterns and poison into `memory` of size() bytes.
  void fill(std::byte* memory, const Call& call, Poison poison) const;

  /// "12 bytes behind the end of outputs/y, from 0 bytes after it on"; nothing where every pattern is whole.
  std::optional<std::string> overwritten(const std::byte* memory) const;

  /// "inputs/x[3, 0]"; nothing where every input holds what it held.
  std::optional<std::string> changed_input(const std::byte* memory, const Call& call) const;

  /// Outputs as tensors.
  NamedTensors results(const std::byte* memory) const;

 private:
  std::vector<BlockTensor> tensors_;
  std::size_t size_ = 0;
};

struct Unwritten {
  std::int64_t count = 0, first = -1;
};

/// The elements of an output that hold in both of two calls what was in the buffer before: `once` of a call
/// with Poison::nan and `again` of one with Poison::number, of the same dtype and shape.
Unwritten unwritten(const Tensor& once, const Tensor& again);

}  // namespace moeref
