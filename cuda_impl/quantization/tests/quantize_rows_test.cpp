// Rows as codes and scales are the numbers that they stand for elsewhere, which the reference judges.
#include "cuda_impl/quantization/quantize_rows.hpp"

#include <cmath>
#include <random>

#include "cuda_impl/tests/device.hpp"

namespace moeref::cuda::test {
namespace {

constexpr int kExperts = 3, kChunks = 2;
const std::vector<int> kOffsets{0, 3, 4, 4, 7, 9, 12};  // by expert and chunk
constexpr std::int64_t kRoom = 14;                      // two rows are nobody's
constexpr int kSlots = 3;
const std::vector<int> kSlotRow{4, 1, -1, 0, 3, 11, -1, -1, -1, 2, 5, 10, 9, 8, 6, 7, -1, -1};

float number_of(std::uint8_t e4m3) {
  const int exponent = e4m3 >> 3 & 15, fraction = e4m3 & 7;
  if ((e4m3 & 0x7f) == 0x7f) return std::nanf("");
  const float size =
      exponent == 0 ? std::ldexp(float(fraction), -9) : std::ldexp(8.0f + fraction, exponent - 10);
  return e4m3 & 0x80 ? -size : size;
}

/// Groups of every size, some of zeros; one with a NaN, one with an infinity.
std::vector<__nv_bfloat16> drawn(std::int64_t rows, int width) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<__nv_bfloat16> out;
  for (std::int64_t row = 0; row < rows; ++row)
    for (int i = 0; i < width; ++i) {
      const bool zeros = (row + i / 128) % 5 == 4;
      float v = zeros ? 0.0f : std::ldexp(normal(random), static_cast<int>(row * 7 + i / 128) % 60 - 30);
      if (row == 1 && i == width / 2) v = std::nanf("");
      if (row == 2 && i == 0) v = -INFINITY;
      out.push_back(__float2bfloat16(v));
    }
  return out;
}

void expect_same_numbers(ActivationFormat format, int width, bool by_token) {
  SCOPED_TRACE(testing::Message() << "width " << width << (by_token ? ", by token" : ""));
  const DeviceArray<int> offsets(kOffsets), slot_row(kSlotRow);
  const std::int64_t count = by_token ? static_cast<std::int64_t>(kSlotRow.size()) / kSlots : kRoom;
  const DeviceArray<__nv_bfloat16> rows(drawn(count, width));
  const RowSource source{rows.data(), count, by_token ? slot_row.data() : nullptr, by_token ? kSlots : 1};
  const auto groups = static_cast<std::size_t>((width + 127) / 128);
  const std::int64_t pitch = scale_pitch(kRoom, kExperts * kChunks);
  const DeviceArray<float> numbers(kRoom * width);
  const DeviceArray<std::uint8_t> codes(kRoom * width);
  const DeviceArray<float> scales(groups * pitch);
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const ChunkRows which{offsets.data(), kExperts, kChunks, chunk, kRoom};
    quantize_rows(format, DataType::bfloat16, which, source, width, numbers.data(), nullptr);
    quantize_rows(format, which, source, width, {codes.data(), scales.data()}, nullptr);
  }
  check(cudaDeviceSynchronize(), "quantize_rows");
  const std::vector<float> want = numbers.get(), by_group = scales.get();
  const std::vector<std::uint8_t> got = codes.get();
  for (std::int64_t row = 0, segment = 0; row < kRoom; ++row) {
    while (segment + 1 < kExperts * kChunks && kOffsets[static_cast<std::size_t>(segment + 1)] <= row)
      ++segment;
    const int begin = kOffsets[static_cast<std::size_t>(segment)];
    EXPECT_EQ(first_scale(begin, segment) % 4, 0);
    for (int i = 0; i < width; ++i) {
      const auto at = static_cast<std::size_t>(row * width + i);
      const float scale =
          by_group[static_cast<std::size_t>(i / 128 * pitch + first_scale(begin, segment) + row - begin)];
      if (row >= kOffsets.back()) {
        EXPECT_EQ(got[at], 0xff) << "row " << row << " is nobody's";
        continue;
      }
      const float number = number_of(got[at]) * scale;
      EXPECT_TRUE(number == want[at] || (std::isnan(number) && std::isnan(want[at])))
          << "row " << row << ", column " << i << ": " << number << " and " << want[at];
    }
  }
}

TEST(QuantizeRows, CodesAreTheNumbersOfTheReference) {
  MOEREF_NEEDS_DEVICE();
  for (const ActivationFormat format :
       {ActivationFormat::fp8_e4m3_group128, ActivationFormat::fp8_e4m3_group128_ue8m0})
    for (const int width : {16, 128, 144, 1104})
      for (const bool by_token : {false, true}) expect_same_numbers(format, width, by_token);
}

// However long the segments are, 0 to 3 rows over whole 16 bytes.
TEST(QuantizeRows, ScalesOfSegmentsLieApart) {
  std::int64_t begin = 0, free = 0;
  for (int segment = 0; segment < 400; ++segment) {
    EXPECT_GE(first_scale(begin, segment), free) << segment;
    const int rows = segment * segment % 7;
    free = first_scale(begin, segment) + rows, begin += rows;
    EXPECT_LE(free, scale_pitch(begin, segment + 1));
  }
}

TEST(QuantizeRows, CodesWantWholeWordsAndGroupsOf128) {
  const ChunkRows none{nullptr, 1, 1, 0, 0};
  EXPECT_THROW(quantize_rows(ActivationFormat::mxfp8, none, {}, 128, {}, nullptr), ArgumentError);
  EXPECT_THROW(quantize_rows(ActivationFormat::fp8_e4m3_group128, none, {}, 136, {}, nullptr), ArgumentError);
}

}  // namespace
}  // namespace moeref::cuda::test
