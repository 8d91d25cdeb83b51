// Codes as numbers, to the bit: those of the reference, rounded to float32 and then to the type. In float64
// it has code * scale * expert scale exactly, of which float32 rounds one product: code * scale of 4 bits and
// e4m3 is exact in it.
#include "reference_cpu/quantization/dequantize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "cuda_impl/tests/device.hpp"
#include "moeref/cuda/weight_format.hpp"
#include "moeref/weight_format.hpp"

namespace moeref::cuda::test {
namespace {

using Format = moeref::WeightFormat;
using Bytes = std::vector<std::uint8_t>;

struct Type {
  DType host;
  DataType device;
};
constexpr Type kTypes[] = {{DType::float32, DataType::float32},
                           {DType::bfloat16, DataType::bfloat16},
                           {DType::float16, DataType::float16}};

Bytes bytes_of(const Tensor& tensor) {
  Bytes out(tensor.bytes().size());
  std::memcpy(out.data(), tensor.bytes().data(), out.size());
  return out;
}

/// Any codes but NaN, scales of every size and both signs.
class Drawn {
 public:
  Drawn(Format format, const ExpertsShape& shape) : format_(format), shape_(shape) {
    std::mt19937 random(static_cast<unsigned>(shape.k * 1000 + shape.n));
    const WeightFormatFacts& f = moeref::facts(format);
    for (const StoredWeights& stored : stored_weights(format, shape)) {
      Tensor tensor(stored.dtype, stored.shape);
      const bool of_codes = stored.suffix == "_codes", of_experts = stored.suffix == "_expert_scales";
      const bool e4m3 = of_codes ? f.element == ElementCodec::e4m3 : f.scale == ScaleType::e4m3,
                 e8m0 = !of_codes && f.scale == ScaleType::e8m0;
      for (std::int64_t i = 0; i < tensor.size(); ++i) {
        const auto bits = static_cast<int>(random() & 0xff);
        const double size = 1.0 + static_cast<double>(random() & 0xffff) / 65536;
        if (stored.dtype != DType::uint8)
          tensor.set(i, std::ldexp(random() % 2 ? size : -size, of_experts ? bits % 40 - 20 : bits - 140));
        else
          tensor.set(i, (e4m3 && bits % 128 == 127) || (e8m0 && bits == 255) ? bits - 1 : bits);
      }
      tensors_["w" + std::string(stored.suffix)] = std::move(tensor);
    }
  }

  Tensor numbers() const {
    Tensor out(DType::float32, {shape_.experts, shape_.k, shape_.n});
    const QuantizedWeights weights = find_quantized(format_, shape_, tensors_, "w");
    std::vector<double> of_expert(static_cast<std::size_t>(shape_.k * shape_.n));
    std::int64_t at = 0;
    for (std::int64_t e = 0; e < shape_.experts; ++e) {
      moeref::dequantize(weights, e, of_expert);
      for (const double number : of_expert) out.set(at++, number);
    }
    return out;
  }
  Bytes stored(const char* name) const { return bytes_of(tensors_.at(name)); }
  bool has_expert_scales() const { return tensors_.contains("w_expert_scales"); }
  Format format() const { return format_; }
  const ExpertsShape& shape() const { return shape_; }

 private:
  Format format_;
  ExpertsShape shape_;
  NamedTensors tensors_;
};

/// `want` from dequantize() at `out_offset` bytes of memory, and nothing written beside it.
void expect_bits(const Drawn& drawn, const Tensor& want, DataType type, std::size_t code_offset,
                 std::size_t out_offset) {
  const Bytes codes = drawn.stored("w_codes");
  Bytes moved(code_offset, 0);
  moved.insert(moved.end(), codes.begin(), codes.end());
  const DeviceArray<std::uint8_t> on_device(moved), scales(drawn.stored("w_scales")),
      experts(drawn.has_expert_scales() ? drawn.stored("w_expert_scales") : Bytes());
  Bytes expected(out_offset, 0xff);
  const Bytes numbers = bytes_of(want);
  expected.insert(expected.end(), numbers.begin(), numbers.end());
  expected.resize(expected.size() + 64, 0xff);
  const DeviceArray<std::uint8_t> out(expected.size());
  const auto [e, k, n] = drawn.shape();
  dequantize(
      {static_cast<WeightFormat>(drawn.format()),
       on_device.data() + code_offset,
       {scales.data(), drawn.has_expert_scales() ? reinterpret_cast<const float*>(experts.data()) : nullptr},
       static_cast<int>(e),
       static_cast<int>(k),
       static_cast<int>(n)},
      type, out.data() + out_offset, nullptr);
  check(cudaDeviceSynchronize(), "dequantize");
  const Bytes got = out.get();
  if (got == expected) return;
  std::size_t at = 0;
  while (got[at] == expected[at]) ++at;
  const auto index = (static_cast<std::int64_t>(at) - static_cast<std::int64_t>(out_offset)) /
                     static_cast<std::int64_t>(cuda::bytes_of(type));
  ADD_FAILURE() << "[E, K, N] " << to_string(want.shape()) << ", codes at " << code_offset << ", numbers at "
                << out_offset << ": element " << index << " is another";
}

class Dequantize : public testing::TestWithParam<Format> {
 protected:
  void SetUp() override { MOEREF_SKIP(device_missing()); }
  static void expect_bits_of(std::int64_t experts, std::int64_t k, std::int64_t n) {
    const WeightFormatFacts& f = moeref::facts(GetParam());
    if (!f.cut_blocks && k % f.block_k != 0) return;
    const Drawn drawn(GetParam(), {experts, k, n});
    const Tensor numbers = drawn.numbers();
    for (const auto& [host, device] : kTypes) {
      SCOPED_TRACE(name(host));
      const Tensor want = numbers.cast(host);
      expect_bits(drawn, want, device, 0, 0);
      expect_bits(drawn, want, device, 1, 0);
      expect_bits(drawn, want, device, 0, cuda::bytes_of(device));
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Formats, Dequantize, testing::ValuesIn(moeref::kQuantisedFormats),
                         [](const auto& info) { return std::string(moeref::facts(info.param).name); });

// Around tiles of 64 by 128, runs of 16 and 32 codes, blocks of 128, words of 4 and 8 numbers.
TEST_P(Dequantize, BitsOfTheReferenceAtEveryEdge) {
  for (const int k : {1, 7, 16, 17, 32, 48, 63, 64, 65, 112, 127, 128, 129, 144, 160, 255, 384})
    for (const int n : {1, 64, 72}) expect_bits_of(2, k, n);
  for (const int n : {2, 4, 8, 16, 31, 32, 63, 65, 127, 128, 129, 132, 200}) expect_bits_of(3, 128, n);
}

// The last outputs of the last expert, whose codes and numbers have places beyond 31 bits, as if they were
// alone.
TEST(DequantizeLarge, PlacesBeyond31Bits) {
  MOEREF_NEEDS_DEVICE();
  const ExpertsShape all{2, 33792, 32768}, last{1, all.k, 128};
  const auto weights = static_cast<std::size_t>(all.experts * all.k * all.n);
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  if (const std::size_t wanted = 3 * weights + (1u << 30); free < wanted)
    GTEST_SKIP() << "wants " << (wanted >> 30) << " GiB of device memory: nothing was tested";
  const Drawn drawn(Format::fp8_e4m3_block128, last);
  const Bytes last_codes = drawn.stored("w_codes"), last_scales = drawn.stored("w_scales");
  const DeviceArray<std::uint8_t> codes(weights), scales(weights / (128 * 128) * 4), out(2 * weights);
  const auto to_the_end = [](const Bytes& bytes, const DeviceArray<std::uint8_t>& of) {
    check(
        cudaMemcpy(of.data() + of.size() - bytes.size(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  };
  to_the_end(last_codes, codes), to_the_end(last_scales, scales);
  dequantize({WeightFormat::fp8_e4m3_block128,
              codes.data(),
              {scales.data()},
              static_cast<int>(all.experts),
              static_cast<int>(all.k),
              static_cast<int>(all.n)},
             DataType::bfloat16, out.data(), nullptr);
  const Bytes want = bytes_of(drawn.numbers().cast(DType::bfloat16));
  Bytes got(static_cast<std::size_t>(last.n) * 2);
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{77}, all.k - 1}) {
    const std::int64_t behind = ((all.experts - 1) * all.k + k + 1) * all.n * 2;
    check(cudaMemcpy(got.data(), out.data() + behind - got.size(), got.size(), cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin() + k * last.n * 2)) << "row " << k;
  }
}

}  // namespace
}  // namespace moeref::cuda::test
