// tensor.hpp: storage, conversion and the errors of named tensors.
#include "moeref/tensor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

constexpr DType kFloating[] = {DType::float64, DType::float32, DType::bfloat16, DType::float16};

TEST(Shapes, CountAndText) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({37, 8}), 296);
  EXPECT_EQ(element_count({3, 0, 5}), 0);
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(to_string(Shape{7}), "[7]");
  EXPECT_EQ(to_string(Shape{37, 8}), "[37, 8]");
}

TEST(TensorTest, StartsAsZeroInEveryType) {
  for (const DType dtype : kDTypes) {
    const Tensor tensor(dtype, {2, 3});
    EXPECT_EQ(tensor.dtype(), dtype);
    EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
    EXPECT_EQ(tensor.size(), 6);
    EXPECT_EQ(tensor.extent(1), 3);
    EXPECT_EQ(static_cast<std::int64_t>(tensor.bytes().size()), 6 * size_of(dtype));
    for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(tensor[i], 0.0);
  }
}

TEST(TensorTest, ADefaultOneIsEmptyAndAScalarHoldsOneElement) {
  EXPECT_EQ(Tensor().size(), 0);
  EXPECT_EQ(Tensor(DType::float32, {}).size(), 1);
  EXPECT_EQ(Tensor(DType::float32, {4, 0}).size(), 0);
  EXPECT_TRUE(Tensor(DType::float32, {4, 0}).doubles().empty());
}

TEST(TensorTest, ANegativeExtentIsAnError) {
  EXPECT_EQ(error_of([] {
              Tensor(DType::float32, {2, -1});
            }),
            "a tensor of shape [2, -1] has a negative extent");
}

TEST(TensorTest, OverReadsMemoryOfOthersAndWritesToACopy) {
  const auto held = std::make_shared<std::vector<float>>(std::vector<float>{1.5F, -2.0F, 4.0F});
  Tensor tensor = Tensor::over(DType::float32, {3}, std::as_bytes(std::span<const float>(*held)), held);
  EXPECT_EQ(static_cast<const void*>(std::as_const(tensor).bytes().data()), held->data());
  const Tensor copy = tensor;
  EXPECT_EQ(static_cast<const void*>(copy.bytes().data()), held->data());
  EXPECT_EQ(copy, tensor);
  (*held)[0] = 8.0F;
  EXPECT_EQ(tensor[0], 8.0);
  tensor.set(1, 3.0);
  EXPECT_EQ(tensor[0], 8.0);
  EXPECT_EQ(tensor[1], 3.0);
  EXPECT_EQ((*held)[1], -2.0F);
  EXPECT_EQ(copy[1], -2.0);
  EXPECT_NE(copy, tensor);
}

TEST(TensorTest, OverKeepsTheMemoryForItsCopies) {
  auto held = std::make_shared<std::vector<double>>(2, 0.5);
  const std::weak_ptr<std::vector<double>> watch = held;
  auto copy = std::make_unique<Tensor>();
  {
    const Tensor tensor =
        Tensor::over(DType::float64, {2}, std::as_bytes(std::span<const double>(*held)), held);
    *copy = tensor;
  }
  held.reset();
  EXPECT_FALSE(watch.expired());
  EXPECT_EQ((*copy)[1], 0.5);
  copy.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(TensorTest, OverTakesTheBytesOfItsShapeAlone) {
  const auto held = std::make_shared<std::vector<float>>(3);
  EXPECT_EQ(error_of([&] {
              Tensor::over(DType::float32, {4}, std::as_bytes(std::span<const float>(*held)), held);
            }),
            "12 bytes are not a float32 tensor of shape [4]");
}

TEST(TensorTest, SetRoundsToTheType) {
  for (const DType dtype : kFloating)
    for (const double value : {0.1, -3.14159, 1e-5, 70000.0, 1e39, -0.0}) {
      Tensor tensor(dtype, {3});
      tensor.set(1, value);
      EXPECT_EQ(tensor[1], round_to(dtype, value)) << name(dtype) << " " << value;
      EXPECT_EQ(tensor[0], 0.0);
      EXPECT_EQ(tensor[2], 0.0);
    }
}

TEST(TensorTest, IntegersKeepTheirValues) {
  Tensor ids(DType::int64, {2});
  ids.set(0, -1.0);
  ids.set(1, 123456789012.0);
  EXPECT_EQ(ids[0], -1.0);
  EXPECT_EQ(ids[1], 123456789012.0);
  Tensor mask(DType::boolean, {2});
  mask.set(1, 1.0);
  EXPECT_EQ(mask.doubles(), (std::vector<double>{0.0, 1.0}));
}

TEST(TensorTest, OfKeepsValuesAndChecksTheirCount) {
  const std::vector<double> values{1.5, -2.0, 0.1, 4.0};
  EXPECT_EQ(Tensor::of({2, 2}, values).doubles(), values);
  const std::vector<std::int64_t> ids{3, -1};
  const Tensor stored = Tensor::of({2, 1}, ids);
  EXPECT_EQ(stored.dtype(), DType::int64);
  EXPECT_EQ(stored[1], -1.0);
  EXPECT_EQ(error_of([&] { Tensor::of({3}, values); }), "4 values do not fill shape [3]");
  EXPECT_EQ(error_of([&] { Tensor::of({3}, ids); }), "2 values do not fill shape [3]");
  EXPECT_EQ(Tensor::of({0}, std::span<const double>()).size(), 0);
}

TEST(TensorTest, ReadTakesARange) {
  for (const DType dtype : kDTypes) {
    Tensor tensor(dtype, {5});
    for (std::int64_t i = 0; i < 5; ++i) tensor.set(i, static_cast<double>(i % 2));
    std::vector<double> out(3, 9.0);
    tensor.read(1, out);
    EXPECT_EQ(out, (std::vector<double>{1.0, 0.0, 1.0})) << name(dtype);
  }
}

TEST(TensorTest, CastRoundsOnceAndWideningIsExact) {
  // In float32 this is a tie of bfloat16, which goes to even; the double lies above it.
  const double above_tie = 1.0 + 0x1p-8 + 0x1p-40;
  const Tensor fine = Tensor::of({1}, std::vector<double>{above_tie});
  EXPECT_EQ(fine.cast(DType::bfloat16)[0], 1.0 + 0x1p-7);
  EXPECT_EQ(fine.cast(DType::float32).cast(DType::bfloat16)[0], 1.0);
  for (const DType dtype : kFloating) {
    const Tensor narrow = fine.cast(dtype);
    EXPECT_EQ(narrow.dtype(), dtype);
    EXPECT_EQ(narrow.cast(DType::float64).cast(dtype), narrow);
  }
}

TEST(TensorTest, ReshapedSharesTheOrderAndChecksTheCount) {
  const Tensor flat = Tensor::of({6}, std::vector<double>{0, 1, 2, 3, 4, 5});
  const Tensor square = flat.reshaped({2, 3});
  EXPECT_EQ(square.shape(), (Shape{2, 3}));
  EXPECT_EQ(square.doubles(), flat.doubles());
  EXPECT_EQ(error_of([&] { flat.reshaped({4}); }), "cannot view shape [6] as [4]");
}

TEST(TensorTest, TypedAccessIsForTheOwnTypeOnly) {
  Tensor tensor(DType::bfloat16, {2});
  tensor.as<std::uint16_t>()[1] = 0x3f80;
  EXPECT_EQ(tensor[1], 1.0);
  EXPECT_EQ(std::as_const(tensor).as<std::uint16_t>()[1], 0x3f80);
  EXPECT_THROW(tensor.as<float>(), std::logic_error);
  EXPECT_THROW(tensor.as<std::int64_t>(), std::logic_error);
  EXPECT_THROW(std::as_const(tensor).as<double>(), std::logic_error);
  EXPECT_THROW(Tensor(DType::float32, {1}).as<std::uint16_t>(), std::logic_error);
  EXPECT_EQ(Tensor(DType::float16, {3}).as<std::uint16_t>().size(), 3u);
  EXPECT_EQ(Tensor(DType::boolean, {3}).as<std::uint8_t>().size(), 3u);
}

TEST(TensorTest, EqualMeansTypeShapeAndBits) {
  const Tensor a = Tensor::of({2}, std::vector<double>{0.0, 1.0});
  EXPECT_EQ(a, Tensor::of({2}, std::vector<double>{0.0, 1.0}));
  EXPECT_NE(a, Tensor::of({2}, std::vector<double>{-0.0, 1.0}));
  EXPECT_NE(a, a.reshaped({2, 1}));
  EXPECT_NE(a, a.cast(DType::float32));
  const Tensor nan = Tensor::of({1}, std::vector<double>{std::nan("")});
  EXPECT_EQ(nan, nan);
}

TEST(NamedTensorsTest, FindAndRequire) {
  NamedTensors tensors;
  tensors["inputs/x"] = Tensor(DType::float32, {2});
  EXPECT_EQ(require(tensors, "inputs/x").size(), 2);
  EXPECT_NE(find(tensors, "inputs/x"), nullptr);
  EXPECT_EQ(find(tensors, "inputs/y"), nullptr);
  EXPECT_EQ(error_of([&] { require(tensors, "inputs/y"); }), "missing dataset 'inputs/y'");
}

}  // namespace
}  // namespace moeref
