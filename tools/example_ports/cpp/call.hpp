// A call of the port interface with its tensors read and written as float.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "json_fields.hpp"
#include "matrix.hpp"
#include "moeref/port.h"
#include "ranks.hpp"

namespace example {

/// For what this port does not have; becomes MOEREF_NOT_SUPPORTED.
struct NotSupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Call {
 public:
  explicit Call(const moeref_call& call)
      : config(call.config),
        options(call.options),
        ranks(call.world_size > 1 ? call.exchange : nullptr),
        call_(call) {}

  const JsonFields config, options;
  const Ranks ranks;

  bool backward() const { return call_.pass == MOEREF_BACKWARD; }
  bool has(const std::string& input) const { return find(input, call_.inputs, call_.input_count) != nullptr; }

  /// The whole tensor; as [size / cols, cols].
  std::vector<float> floats(const std::string& input) const;
  Matrix matrix(const std::string& input, long cols) const;
  std::vector<std::int64_t> integers(const std::string& input) const;
  /// Of `tokens` tokens: true where `mask` says that it is a real one. Without the mask, all are.
  std::vector<bool> real_tokens(const std::string& mask, bool mask_is_padding, long tokens) const;

  /// Written where the suite has a buffer of that name (it has none for stages that it does not judge).
  void write(const std::string& output, const std::vector<float>& values) const;
  void write(const std::string& output, const Matrix& values) const { write(output, values.v); }
  void write(const std::string& output, const std::vector<std::int64_t>& values) const;
  /// The sum over all ranks, for what every rank has as a whole: each gives what its own tokens add.
  void write_total(const std::string& output, std::vector<float> values) const;

 private:
  static const DLTensor* find(const std::string& name, const moeref_named_tensor* tensors, std::size_t count);
  const DLTensor& input(const std::string& name) const;

  const moeref_call& call_;
};

/// Throws NotSupported unless `ok`.
inline void need(bool ok, const std::string& otherwise) {
  if (!ok) throw NotSupported(otherwise);
}

}  // namespace example
