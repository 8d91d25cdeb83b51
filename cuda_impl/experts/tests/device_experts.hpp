// The CUDA experts on a HostCase, every output and workspace poisoned before the run.
#pragma once

#include "cuda_impl/experts/tests/host_experts.hpp"
#include "cuda_impl/tests/device.hpp"

namespace moeref::cuda::test {

/// A matrix in the type under test, from and to bfloat16 values; poisoned (NaN) where it is given a size
/// alone.
class DeviceMatrix {
 public:
  DeviceMatrix(DataType type, std::size_t count) : type_(type), bytes_(count * bytes_of(type)) {}
  DeviceMatrix(DataType type, const std::vector<bf16>& values) : DeviceMatrix(type, values.size()) {
    set(values);
  }
  void set(const std::vector<bf16>& values) {
    std::vector<char> bytes(bytes_.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      write_element(type_, __bfloat162float(values[i]), &bytes[i * bytes_of(type_)]);
    bytes_.set(bytes);
  }
  void poison(int byte) { bytes_.poison(byte); }
  void* data() const { return bytes_.data(); }
  void* data_or_null() const { return size() ? data() : nullptr; }
  std::size_t size() const { return bytes_.size() / bytes_of(type_); }
  std::vector<char> bits() const { return bytes_.get(); }
  std::vector<double> values() const {
    const std::vector<char> bytes = bits();
    std::vector<double> out(size());
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = read_element(type_, &bytes[i * bytes_of(type_)]);
    return out;
  }

 private:
  DataType type_;
  DeviceArray<char> bytes_;
};

/// Rows of `width`: each element within one rounding of its own size and a few of its row's, the whole within
/// 6e-3 in bfloat16. fp32 results are 2^-9 of that, where the order of sums is left, float16 ones 2^-3 and
/// what its denormals round. Rows of few float16 elements say little of the terms that cancelled in them:
/// there the root mean square is the tensor's, and a tensor of few elements is judged by element alone.
inline void expect_close(const char* name, DataType type, const std::vector<double>& got,
                         const std::vector<double>& want, std::int64_t width) {
  if (got.empty()) return;
  ASSERT_EQ(got.size(), want.size()) << name;
  const bool half = type == DataType::float16;
  const std::size_t few = half ? 8 : 0;
  const double scale = type == DataType::float32 ? 0x1p-9 : half ? 0x1p-3 : 1, least = half ? 0x1p-22 : 0;
  const auto square = [&](std::size_t begin, std::size_t end) {
    double sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += want[i] * want[i];
    return sum;
  };
  const double norm = square(0, want.size());
  double error = 0;
  int shown = 0;
  for (std::size_t row = 0; row < want.size(); row += width) {
    const std::size_t end = std::min(row + width, want.size());
    const double rms = end - row < few ? std::sqrt(norm / static_cast<double>(want.size()))
                                       : std::sqrt(square(row, end) / static_cast<double>(end - row));
    for (std::size_t i = row; i < end; ++i) {
      const double d = std::abs(got[i] - want[i]);
      error += d * d;
      if (!(d <= scale * (0.008 * std::abs(want[i]) + 0.04 * rms) + least) && shown++ < 5)
        ADD_FAILURE() << name << "[" << row / width << ", " << i - row << "] is " << got[i] << ", want "
                      << want[i] << " (root mean square " << rms << ")";
    }
  }
  if (want.size() >= few) {
    EXPECT_LE(std::sqrt(error), scale * 6e-3 * std::sqrt(norm)) << name;
  }
}

class DeviceExperts {
 public:
  explicit DeviceExperts(const HostCase& c)
      : config(c.config),
        x(config.dtype, c.x),
        gate_up(config.dtype, c.gate_up),
        down(config.dtype, c.down),
        gate_up_bias(config.dtype, c.gate_up_bias),
        down_bias(config.dtype, c.down_bias),
        d_output(config.dtype, c.d_output),
        ids(c.ids),
        weights(c.weights),
        mask(c.mask),
        saved(saved_bytes(config)),
        forward_work(forward_workspace_bytes(config)),
        backward_work(backward_workspace_bytes(config)),
        output(config.dtype, c.x.size()),
        dx(config.dtype, c.x.size()),
        dgate_up(config.dtype, c.gate_up.size()),
        ddown(config.dtype, c.down.size()),
        dgate_up_bias(config.dtype, c.gate_up_bias.size()),
        ddown_bias(config.dtype, c.down_bias.size()),
        dweights(c.ids.size()) {}

  void poison(int byte) {
    saved.poison(byte), forward_work.poison(byte), backward_work.poison(byte), output.poison(byte),
        dx.poison(byte);
    dgate_up.poison(byte), ddown.poison(byte), dgate_up_bias.poison(byte), ddown_bias.poison(byte),
        dweights.poison(byte);
  }
  void forward(cudaStream_t stream = nullptr) {
    experts_forward(config, parameters(), input(), output.data(), saved.data(), forward_work.data(), stream);
  }
  void backward(cudaStream_t stream = nullptr) {
    experts_backward(config, parameters(), input(), d_output.data(), saved.data(),
                     {dx.data(), dweights.data(), dgate_up.data(), ddown.data(), dgate_up_bias.data_or_null(),
                      ddown_bias.data_or_null()},
                     backward_work.data(), stream);
  }
  ExpertsWeights parameters() const {
    return {gate_up.data(), down.data(), gate_up_bias.data_or_null(), down_bias.data_or_null()};
  }
  ExpertsInput input() const {
    return {x.data(), ids.data(), weights.data(), mask.size() ? mask.data() : nullptr};
  }
  /// Name and bits of every result.
  std::vector<std::pair<const char*, std::vector<char>>> bits() const {
    const std::vector<float> dw = dweights.get();
    const char* from = reinterpret_cast<const char*>(dw.data());
    return {{"output", output.bits()},
            {"dx", dx.bits()},
            {"dgate_up", dgate_up.bits()},
            {"ddown", ddown.bits()},
            {"dgate_up_bias", dgate_up_bias.bits()},
            {"ddown_bias", ddown_bias.bits()},
            {"dweights", {from, from + dw.size() * sizeof(float)}}};
  }

  ExpertsConfig config;
  DeviceMatrix x, gate_up, down, gate_up_bias, down_bias, d_output;
  DeviceArray<int> ids;
  DeviceArray<float> weights;
  DeviceArray<std::uint8_t> mask;
  DeviceArray<char> saved, forward_work, backward_work;
  DeviceMatrix output, dx, dgate_up, ddown, dgate_up_bias, ddown_bias;
  DeviceArray<float> dweights;
};

}  // namespace moeref::cuda::test
