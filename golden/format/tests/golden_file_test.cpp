// What is written is what is read, in bytes that never change; and everything that the documented system
// computed is read.
#include "moeref/golden_file.hpp"

#include <hdf5.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "golden/format/tests/sample_files.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using testing::small_mlp;
using testing::small_numbers;

using GoldenFileTest = testing::GoldenFolder;

TEST_F(GoldenFileTest, RoundTripKeepsEverything) {
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16, DType::float16}) {
    const GoldenFile written = small_mlp(dtype);
    write_golden(at("case.h5"), written);
    const GoldenFile read = read_golden(at("case.h5"));
    EXPECT_EQ(read.call.component, Component::mlp);
    EXPECT_EQ(read.call.config, written.call.config);
    EXPECT_EQ(read.call.options, written.call.options);
    EXPECT_EQ(read.call.tensors, written.call.tensors);
    EXPECT_TRUE(read.call.backward);
    EXPECT_EQ(read.case_name, written.case_name);
    EXPECT_EQ(read.producer, written.producer);
    EXPECT_EQ(read.flags, written.flags);
    EXPECT_EQ(read.recipe, written.recipe);
    EXPECT_FALSE(read.allow_nonfinite);
    EXPECT_EQ(read.result_dtypes.at("outputs/y"), dtype);
    const bool narrow = dtype != DType::float64;
    EXPECT_EQ(read.results.at("outputs/y").dtype(), narrow ? DType::float32 : DType::float64);
    if (!narrow) {
      EXPECT_EQ(read.results, written.results);
    }
    // What was read writes the same file again.
    write_golden(at("again.h5"), read);
    EXPECT_EQ(first_difference(read_golden(at("again.h5")), read), std::nullopt);
  }
}

TEST_F(GoldenFileTest, EveryDtypeAndShapeOfAStage) {
  GoldenFile file = small_mlp(DType::float64);  // whose results keep their width
  int count = 0;
  for (const DType dtype :
       {DType::float64, DType::float32, DType::bfloat16, DType::float16, DType::int64, DType::boolean})
    for (const Shape& shape :
         {Shape{}, Shape{0}, Shape{3, 0, 2}, Shape{5}, Shape{2, 3, 4, 5}, Shape{70, 1000}})
      file.results["stages/deep/er" + std::to_string(count++)] = small_numbers(dtype, shape);
  write_golden(at("case.h5"), file);
  EXPECT_EQ(read_golden(at("case.h5")).results, file.results);
  EXPECT_EQ(read_results(at("case.h5")), file.results);
}

TEST_F(GoldenFileTest, SpecialValuesKeepTheirBits) {
  GoldenFile file = small_mlp(DType::float64);
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    Tensor all(dtype, {1 << 16});
    for (std::size_t i = 0; i < 1 << 16; ++i) all.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(i);
    file.results["stages/" + std::string(name(dtype))] = all;
  }
  write_golden(at("case.h5"), file);
  EXPECT_EQ(read_golden(at("case.h5")).results, file.results);
}

TEST_F(GoldenFileTest, NoTokens) {
  GoldenFile file = small_mlp();
  for (const char* name : {"inputs/x", "cotangents/y"})
    file.call.tensors[name] = Tensor(DType::bfloat16, {0, 4});
  for (const char* name : {"outputs/y", "grads/x"})
    file.results[name] = file.bounds[name] = Tensor(DType::float64, {0, 4});
  write_golden(at("case.h5"), file);
  EXPECT_EQ(read_golden(at("case.h5")).results.at("outputs/y").shape(), (Shape{0, 4}));
}

TEST_F(GoldenFileTest, SameContentSameBytes) {
  GoldenFile file = small_mlp();
  file.results["stages/large"] = small_numbers(DType::float64, {100, 100});
  write_golden(at("a.h5"), file);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's time stamps count seconds
  write_golden(at("b.h5"), file);
  EXPECT_EQ(testing::bytes_of(at("a.h5")), testing::bytes_of(at("b.h5")));
  EXPECT_EQ(names().size(), 2u);
}

TEST_F(GoldenFileTest, NarrowedResultsWidenTheirBounds) {
  GoldenFile file = small_mlp(DType::bfloat16);
  write_golden(at("case.h5"), file);
  const GoldenFile read = read_golden(at("case.h5"));
  for (const auto& [name, exact] : file.results) {
    const Tensor& value = read.results.at(name);
    const Tensor& bound = read.bounds.at(name);
    EXPECT_EQ(bound.dtype(), DType::float32);
    for (std::int64_t i = 0; i < exact.size(); ++i) {
      EXPECT_EQ(value[i], static_cast<double>(static_cast<float>(exact[i])));
      const double needed = file.bounds.at(name)[i] + std::abs(value[i] - exact[i]);
      EXPECT_GE(bound[i], needed);
      EXPECT_LE(bound[i], needed * (1 + 0x1p-22) + 1e-44);
    }
  }
}

TEST_F(GoldenFileTest, BoundsAreRoundedUpAndZeroStaysZero) {
  GoldenFile file = small_mlp(DType::float64);
  Tensor& bound = file.bounds["outputs/y"] = Tensor(DType::float64, {3, 4});
  const std::vector<double> bounds{0.0,     0.1, 1.0, 1e-60, 1e60, std::numeric_limits<double>::infinity(),
                                   0x1p-149};
  for (std::size_t i = 0; i < bounds.size(); ++i) bound.set(static_cast<std::int64_t>(i), bounds[i]);
  write_golden(at("case.h5"), file);
  const Tensor read = read_golden(at("case.h5")).bounds.at("outputs/y");
  EXPECT_EQ(read[0], 0.0);
  EXPECT_GT(read[1], 0.1);
  EXPECT_LT(read[1], 0.1 + 1e-8);
  EXPECT_EQ(read[2], 1.0);
  EXPECT_EQ(read[3], 0x1p-149);
  EXPECT_TRUE(std::isinf(read[4]));
  EXPECT_TRUE(std::isinf(read[5]));
  EXPECT_EQ(read[6], 0x1p-149);
}

TEST_F(GoldenFileTest, AnEvaluationIsWrittenLikeItsTensors) {
  GoldenFile file = small_mlp();
  Evaluation evaluation;
  for (const auto& [name, tensor] : file.results) {
    const auto bound = file.bounds.at(name).as<float>();
    evaluation.results[name] = {
        DType::bfloat16, tensor.shape(), tensor.doubles(), {bound.begin(), bound.end()}};
  }
  evaluation.results["stages/ids"] = {DType::int64, {2, 2}, {3, -1, 0, 255}, {0, 0, 0, 0}};
  evaluation.results["stages/kept"] = {DType::boolean, {2}, {1, 0}, {0, 0}};
  for (const auto& [name, result] : evaluation.results) file.result_dtypes[name] = result.dtype;
  write_golden(at("evaluation.h5"), file, evaluation);
  file.results["stages/ids"] = Tensor::of({2, 2}, std::vector<std::int64_t>{3, -1, 0, 255});
  file.results["stages/kept"] = Tensor(DType::boolean, {2});
  file.results["stages/kept"].set(0, 1);
  file.bounds["stages/ids"] = Tensor(DType::float32, {2, 2});
  file.bounds["stages/kept"] = Tensor(DType::float32, {2});
  write_golden(at("tensors.h5"), file);
  EXPECT_EQ(testing::bytes_of(at("evaluation.h5")), testing::bytes_of(at("tensors.h5")));
}

TEST_F(GoldenFileTest, LargeDatasetsGoBlockByBlock) {
  GoldenFile file = small_mlp(DType::bfloat16);
  // More than a block, with extents that no block divides, in every position of the long axis.
  for (const Shape& shape : {Shape{4200001}, Shape{2, 3, 700001}, Shape{700001, 7}}) {
    Tensor large(DType::float64, shape);
    for (std::int64_t i = 0; i < large.size(); ++i)
      large.as<double>()[static_cast<std::size_t>(i)] = 1.0 / (1.0 + i);
    file.results["stages/large"] = file.bounds["stages/large"] = large;
    file.result_dtypes["stages/large"] = DType::bfloat16;
    write_golden(at("case.h5"), file);
    const GoldenFile read = read_golden(at("case.h5"));
    EXPECT_EQ(read.results.at("stages/large"), large.cast(DType::float32));
    bool covered = true;
    const Tensor& bound = read.bounds.at("stages/large");
    for (std::int64_t i = 0; i < large.size(); ++i) covered = covered && bound[i] >= large[i];
    EXPECT_TRUE(covered);
  }
}

TEST_F(GoldenFileTest, OtherProgramsReadSixteenBitFloatsAsNumbers) {
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    const GoldenFile file = small_mlp(dtype);
    write_golden(at("case.h5"), file);
    const hid_t h5 = H5Fopen(at("case.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t x = H5Dopen2(h5, "inputs/x", H5P_DEFAULT);
    const hid_t type = H5Dget_type(x);
    EXPECT_EQ(H5Tget_size(type), 2u);
    std::vector<float> values(12);
    EXPECT_GE(H5Dread(x, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    for (std::int64_t i = 0; i < 12; ++i)
      EXPECT_EQ(values[static_cast<std::size_t>(i)], file.call.tensors.at("inputs/x")[i]);
    H5Tclose(type);
    H5Dclose(x);
    H5Fclose(h5);
  }
}

TEST_F(GoldenFileTest, TheHeaderAlone) {
  write_golden(at("case.h5"), small_mlp());
  const GoldenHeader header = read_golden_header(at("case.h5"));
  EXPECT_EQ(header.component, Component::mlp);
  EXPECT_EQ(header.case_name, "small");
  EXPECT_EQ(header.config.at("dim"), 4);
  EXPECT_EQ(header.flags.size(), 2u);
  ASSERT_EQ(header.datasets.size(), 5u + 6u + 6u);
  EXPECT_EQ(header.datasets.front().path, "bounds/grads/down_proj.weight");
  EXPECT_EQ(header.datasets.back().path, "stages/activation");
  const DatasetInfo& x = header.datasets.at(11);
  EXPECT_EQ(x.path, "inputs/x");
  EXPECT_EQ(x.stored, DType::bfloat16);
  EXPECT_EQ(x.documented, DType::bfloat16);
  EXPECT_EQ(x.shape, (Shape{3, 4}));
  EXPECT_EQ(x.stored_bytes, 24u);
}

TEST_F(GoldenFileTest, FirstDifferenceNamesThePlace) {
  const GoldenFile a = small_mlp();
  EXPECT_EQ(first_difference(a, a), std::nullopt);
  GoldenFile b = a;
  b.results["outputs/y"].set(5, 0.25);
  EXPECT_EQ(first_difference(a, b), "dataset 'outputs/y' differs at element 5: 0.60000000000000009 and 0.25");
  b = a;
  b.flags.pop_back();
  EXPECT_EQ(first_difference(a, b), "attribute 'flags' differs at character 13");
  b = a;
  b.bounds.erase("grads/x");
  EXPECT_EQ(first_difference(a, b), "dataset 'bounds/grads/x' is only in the first");
}

TEST_F(GoldenFileTest, NonfiniteValuesWhereAllowed) {
  GoldenFile file = small_mlp();
  file.call.tensors.at("inputs/x").set(3, std::nan(""));
  file.allow_nonfinite = true;
  write_golden(at("case.h5"), file);
  const GoldenFile read = read_golden(at("case.h5"));
  EXPECT_TRUE(read.allow_nonfinite);
  EXPECT_TRUE(std::isnan(read.call.tensors.at("inputs/x")[3]));
}

TEST_F(GoldenFileTest, ListsFilesOnceAndSorted) {
  fs::create_directories(at("deep/er"));
  for (const char* name : {"b.h5", "deep/er/a.h5", "deep/notes.txt"}) testing::write_bytes(at(name), "x");
  const std::vector<fs::path> both{folder_, at("b.h5")};
  EXPECT_EQ(list_golden_files(both), (std::vector<fs::path>{at("b.h5"), at("deep/er/a.h5")}));
}

TEST(DocumentedSystem, EveryFileIsRead) {
  const std::vector<fs::path> folder{MOEREF_DOCUMENTED_SYSTEM};
  const auto files = list_golden_files(folder);
  EXPECT_EQ(files.size(), 127u);
  for (const fs::path& path : files) {
    const GoldenFile file = read_golden(path);
    EXPECT_EQ(path.filename(), std::string(name(file.call.component)) + "__" + file.case_name + ".h5");
    EXPECT_EQ(read_golden_header(path).config, file.call.config);
    EXPECT_EQ(read_results(path).size(), file.results.size());
  }
}

}  // namespace
}  // namespace moeref
