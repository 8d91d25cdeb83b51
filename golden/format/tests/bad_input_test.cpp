// Every way in which a golden file can be wrong gives one line that names the file and the place.
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <functional>
#include <limits>

#include "golden/format/tests/sample_files.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using testing::small_mlp;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

class BadInputTest : public testing::GoldenFolder {
 protected:
  void SetUp() override {
    GoldenFolder::SetUp();
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    good_ = at("good.h5");
    bad_ = at("bad.h5");
    write_golden(good_, small_mlp());
  }

  /// What reading says, without "<path>: ", of the small file after `change` worked on it through HDF5.
  std::string after(const std::function<void(hid_t)>& change) {
    fs::copy_file(good_, bad_, fs::copy_options::overwrite_existing);
    const hid_t file = H5Fopen(bad_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    change(file);
    H5Fclose(file);
    return reading();
  }

  /// The same, with attribute `name` a text of this value; removed if null.
  std::string after_text(const char* object, const char* name, const char* value) {
    return after([&](hid_t file) {
      H5Adelete_by_name(file, object, name, H5P_DEFAULT);
      if (!value) return;
      const hid_t type = H5Tcopy(H5T_C_S1);
      H5Tset_size(type, std::max<std::size_t>(std::strlen(value), 1));  // fixed length, unpadded
      H5Tset_strpad(type, H5T_STR_NULLPAD);
      put_attribute(file, object, name, type, value);
      H5Tclose(type);
    });
  }

  std::string after_number(const char* name, std::int64_t value) {
    return after([&](hid_t file) {
      H5Adelete(file, name);
      put_attribute(file, ".", name, H5T_NATIVE_INT64, &value);
    });
  }

  /// The dataset replaced by one of this type and shape, filled from `data` unless null.
  static void put_dataset(hid_t file, const char* path, hid_t type, const std::vector<hsize_t>& shape,
                          hid_t memory, const void* data, const char* dtype, hid_t creation = H5P_DEFAULT) {
    H5Ldelete(file, path, H5P_DEFAULT);
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    if (data) H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(dataset);
    H5Sclose(space);
    if (!dtype) return;
    const hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, std::strlen(dtype));
    put_attribute(file, path, "dtype", text, dtype);
    H5Tclose(text);
  }

  std::string reading() {
    return without_path(error_of([&] { read_golden(bad_); }));
  }

  std::string without_path(const std::string& message) const {
    const std::string prefix = bad_.string() + ": ";
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  }

  static void put_attribute(hid_t file, const char* object, const char* name, hid_t type, const void* value) {
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute =
        H5Acreate_by_name(file, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    ASSERT_GE(attribute, 0);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
  }

  fs::path good_, bad_;
};

TEST_F(BadInputTest, NoHdf5File) {
  EXPECT_EQ(reading(), "no such file");
  fs::create_directory(bad_);
  EXPECT_EQ(reading(), "is a folder: want an HDF5 file");
  fs::remove(bad_);
  ASSERT_EQ(::mkfifo(bad_.c_str(), 0600), 0);
  EXPECT_EQ(reading(), "is not a regular file");
  fs::remove(bad_);
  testing::write_bytes(bad_, "");
  EXPECT_EQ(reading(), "is not an HDF5 file");
  testing::write_bytes(bad_, "some text\n");
  EXPECT_EQ(reading(), "is not an HDF5 file");
  const std::string bytes = testing::bytes_of(good_);
  testing::write_bytes(bad_, bytes.substr(0, bytes.size() - 1));
  EXPECT_EQ(reading(), "is a truncated or damaged HDF5 file");
  testing::write_bytes(bad_, bytes.substr(0, 40));
  EXPECT_EQ(reading(), "is a truncated or damaged HDF5 file");
  for (const auto& read :
       std::vector<std::function<void()>>{[&] { read_golden_header(bad_); }, [&] { read_results(bad_); }})
    EXPECT_EQ(without_path(error_of(read)), "is a truncated or damaged HDF5 file");
}

TEST_F(BadInputTest, Attributes) {
  EXPECT_EQ(after_number("schema_version", 2), "unknown schema_version 2: want 1");
  EXPECT_EQ(after_text(".", "schema_version", "1"), "attribute 'schema_version' is not an integer");
  for (const char* name : {"schema_version", "component", "case", "config", "call", "producer"})
    EXPECT_EQ(after_text(".", name, nullptr), "missing attribute '" + std::string(name) + "'");
  EXPECT_EQ(after_number("component", 2), "attribute 'component' is not a text");
  EXPECT_EQ(after_text(".", "component", "router"),
            "unknown component 'router': want one of gate aux_loss bias_update fake_balanced_gate mlp "
            "experts moe init "
            "metrics");
  EXPECT_EQ(after_text(".", "component", "two\nlines").find("unknown component 'two?lines'"), 0u);
  EXPECT_EQ(after_text(".", "case", "../../etc"), "attribute 'case' is '../../etc': want a name without '/'");
  EXPECT_EQ(after_text(".", "case", ""), "attribute 'case' is '': want a name without '/'");
  // What follows is the JSON library's own text, which differs from one version to the next.
  EXPECT_EQ(after_text(".", "config", "{").rfind("attribute 'config' is not JSON: ", 0), 0u);
  EXPECT_EQ(after_text(".", "call", "").rfind("attribute 'call' is not JSON: ", 0), 0u);
  EXPECT_EQ(after_text(".", "recipe", "tokens: 3").rfind("attribute 'recipe' is not JSON: ", 0), 0u);
  EXPECT_EQ(after_text(".", "config", "[1]"), "attribute 'config' is not a JSON object");
  EXPECT_EQ(after_text(".", "config", std::string(60000, '[').c_str()),
            "attribute 'config' nests deeper than 32");
  EXPECT_EQ(after_text(".", "flags", "{}"), "attribute 'flags' is not a JSON list of texts");
  EXPECT_EQ(after_text(".", "flags", "[1]"), "attribute 'flags' is not a JSON list of texts");
  const std::int64_t two[2] = {1, 1};
  EXPECT_EQ(after([&](hid_t file) {
              H5Adelete(file, "schema_version");
              const hsize_t count = 2;
              const hid_t space = H5Screate_simple(1, &count, nullptr);
              const hid_t a =
                  H5Acreate2(file, "schema_version", H5T_NATIVE_INT64, space, H5P_DEFAULT, H5P_DEFAULT);
              H5Awrite(a, H5T_NATIVE_INT64, two);
              H5Aclose(a);
              H5Sclose(space);
            }),
            "attribute 'schema_version' is not a single value");
}

TEST_F(BadInputTest, ConfigAndCall) {
  EXPECT_EQ(after_text(".", "config", R"({"dim":4,"inter_dim":2,"dtype":"bfloat16","width":3})"),
            "the config has an unknown field 'width'");
  EXPECT_EQ(after_text(".", "config", R"({"inter_dim":2})"), "the config lacks the field 'dim'");
  EXPECT_EQ(after_text(".", "config", R"({"dim":-4,"inter_dim":2})"),
            "config field 'dim' is -4: want a size from 1 to 2^20");
  EXPECT_EQ(after_text(".", "call", R"({"steps":0})"), "config field 'steps' is 0: want 1 to 10000");
  EXPECT_EQ(after_text(".", "config", R"({"dim":8,"inter_dim":2})"),
            "dataset 'inputs/x' has shape [3, 4]: want [3, 8]");
}

TEST_F(BadInputTest, MissingAndUnknownDatasets) {
  const auto without = [&](const char* path) {
    return after([&](hid_t file) { H5Ldelete(file, path, H5P_DEFAULT); });
  };
  EXPECT_EQ(without("inputs/x"), "missing dataset 'inputs/x'");
  EXPECT_EQ(without("params"), "missing dataset 'params/gate_proj.weight'");
  EXPECT_EQ(without("cotangents"), "missing dataset 'cotangents/y'");
  EXPECT_EQ(without("grads/x"), "missing dataset 'grads/x'");
  EXPECT_EQ(without("stages"), "dataset 'bounds/stages/activation' bounds a dataset that the file lacks");
  EXPECT_EQ(
      after([](hid_t file) { H5Lmove(file, "outputs/y", file, "outputs/z", H5P_DEFAULT, H5P_DEFAULT); }),
      "missing dataset 'outputs/y'");
  EXPECT_EQ(after([](hid_t file) { H5Lmove(file, "inputs/x", file, "inputs/z", H5P_DEFAULT, H5P_DEFAULT); }),
            "missing dataset 'inputs/x'");
  EXPECT_EQ(after([](hid_t file) {
              put_dataset(file, "params/bias", H5T_IEEE_F32LE, {}, H5T_NATIVE_FLOAT, nullptr, "float32");
            }),
            "dataset 'params/bias' claims 4 bytes and the file stores 0: truncated or damaged file");
  const float zero = 0;
  EXPECT_EQ(after([&](hid_t file) {
              put_dataset(file, "params/bias", H5T_IEEE_F32LE, {1}, H5T_NATIVE_FLOAT, &zero, "float32");
            }),
            "dataset 'params/bias' belongs to no input of this mlp call");
  EXPECT_EQ(after([&](hid_t file) {
              put_dataset(file, "outputs/z", H5T_IEEE_F32LE, {1}, H5T_NATIVE_FLOAT, &zero, "float32");
            }),
            "dataset 'outputs/z' belongs to no result of this mlp call");
  EXPECT_EQ(
      after([](hid_t file) { H5Gclose(H5Gcreate2(file, "weights", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); }),
      "'weights' is no group of schema version 1");
  EXPECT_EQ(after([&](hid_t file) {
              H5Ldelete(file, "inputs", H5P_DEFAULT);
              put_dataset(file, "inputs", H5T_IEEE_F32LE, {1}, H5T_NATIVE_FLOAT, &zero, "float32");
            }),
            "'inputs' is not a group");
}

TEST_F(BadInputTest, ShapesAndDtypes) {
  const std::vector<float> values(64, 0.5f);
  const std::vector<std::int64_t> ids(64, 1);
  const auto with_x = [&](std::vector<hsize_t> shape, hid_t type, const char* dtype) {
    return after([&](hid_t file) {
      const bool integers = H5Tget_class(type) == H5T_INTEGER;
      put_dataset(file, "inputs/x", type, shape, integers ? H5T_NATIVE_INT64 : H5T_NATIVE_FLOAT,
                  integers ? static_cast<const void*>(ids.data()) : values.data(), dtype);
    });
  };
  EXPECT_EQ(with_x({4, 4}, H5T_IEEE_F32LE, "float32"),
            "dataset 'cotangents/y' has shape [3, 4]: want [4, 4]");
  EXPECT_EQ(with_x({3, 5}, H5T_IEEE_F32LE, "float32"), "dataset 'inputs/x' has shape [3, 5]: want [3, 4]");
  EXPECT_EQ(with_x({}, H5T_IEEE_F32LE, "float32"), "dataset 'inputs/x' is a scalar: want [..., width]");
  EXPECT_EQ(with_x({3, 4}, H5T_STD_I32BE, "int64"),
            "dataset 'inputs/x' has dtype int64: want a floating one such as bfloat16");
  EXPECT_EQ(with_x({3, 4}, H5T_STD_I32BE, "float32"),
            "dataset 'inputs/x' stores int64 where its attribute dtype says float32");
  EXPECT_EQ(with_x({3, 4}, H5T_IEEE_F32LE, "int64"),
            "dataset 'inputs/x' stores float32 where its attribute dtype says int64");
  EXPECT_EQ(with_x({3, 4}, H5T_IEEE_F32LE, "float8"),
            "dataset 'inputs/x': unknown dtype 'float8': want float64, float32, bfloat16, float16, int64, "
            "bool or uint8");
  EXPECT_EQ(with_x({3, 4}, H5T_IEEE_F32LE, nullptr), "dataset 'inputs/x': missing attribute 'dtype'");
  EXPECT_EQ(with_x({3, 4}, H5T_C_S1, "float32"),
            "dataset 'inputs/x' holds no numbers: want floats, integers or booleans");
  EXPECT_EQ(
      after([&](hid_t file) {
        put_dataset(file, "outputs/y", H5T_IEEE_F32LE, {2, 4}, H5T_NATIVE_FLOAT, values.data(), "float32");
      }),
      "dataset 'outputs/y' has shape [2, 4]: want [3, 4]");
  EXPECT_EQ(after([&](hid_t file) {
              put_dataset(file, "outputs/y", H5T_STD_I64LE, {3, 4}, H5T_NATIVE_INT64, ids.data(), "int64");
            }),
            "dataset 'outputs/y' has dtype int64: want a floating one such as bfloat16");
  EXPECT_EQ(after([&](hid_t file) {
              put_dataset(file, "bounds/outputs/y", H5T_IEEE_F32LE, {4}, H5T_NATIVE_FLOAT, values.data(),
                          "float32");
            }),
            "dataset 'bounds/outputs/y' has shape [4]: want [3, 4]");
}

TEST_F(BadInputTest, Values) {
  const auto with = [&](const char* path, std::vector<float> values, const char* dtype) {
    values.resize(12, 0.5f);
    return after([&](hid_t file) {
      put_dataset(file, path, H5T_IEEE_F32LE, {3, 4}, H5T_NATIVE_FLOAT, values.data(), dtype);
    });
  };
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::string want_finite = ": want finite values, or the attribute allow_nonfinite = 1";
  for (const char* dtype : {"float64", "float32", "bfloat16", "float16"}) {
    EXPECT_EQ(with("inputs/x", {1, nan}, dtype), "dataset 'inputs/x' holds NaN at element 1" + want_finite);
    EXPECT_EQ(with("cotangents/y", {1, 2, -infinity}, dtype),
              "dataset 'cotangents/y' holds an infinity at element 2" + want_finite);
  }
  EXPECT_EQ(with("inputs/x", {1, 1.001f}, "bfloat16"),
            "dataset 'inputs/x' holds 1.00100005 at element 1, which is no bfloat16");
  EXPECT_EQ(with("inputs/x", {1e6f}, "float16"),
            "dataset 'inputs/x' holds 1000000 at element 0, which is no float16");
  EXPECT_EQ(with("bounds/outputs/y", {1, -1}, "float32"),
            "dataset 'bounds/outputs/y' holds a negative number at element 1: want bounds of 0 or more");
  EXPECT_EQ(with("bounds/outputs/y", {nan}, "float32"),
            "dataset 'bounds/outputs/y' holds NaN at element 0: want bounds of 0 or more");
  const std::uint8_t two = 2;
  EXPECT_EQ(after([&](hid_t file) {
              put_dataset(file, "stages/kept", H5T_STD_U8LE, {1}, H5T_NATIVE_UINT8, &two, "bool");
            }),
            "dataset 'stages/kept' holds 2 at element 0, which is no bool");
}

TEST_F(BadInputTest, ForgedSizesAreRefusedBeforeTheyAreAllocated) {
  const auto with = [&](std::vector<hsize_t> shape, hid_t creation) {
    return after([&](hid_t file) {
      put_dataset(file, "inputs/x", H5T_IEEE_F32LE, shape, H5T_NATIVE_FLOAT, nullptr, "float32", creation);
    });
  };
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunk{1, 4};
  H5Pset_chunk(chunked, 2, chunk.data());
  H5Pset_deflate(chunked, 6);
  const hid_t outside = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(outside, "/etc/passwd", 0, 48);
  EXPECT_EQ(with({hsize_t{1} << 58, 4}, chunked), "dataset 'inputs/x' claims more than 2^42 elements");
  EXPECT_EQ(with({hsize_t{1} << 32, 0, hsize_t{1} << 32}, H5P_DEFAULT),
            "dataset 'inputs/x' claims more than 2^42 elements");
  EXPECT_EQ(with({hsize_t{1} << 38, 4}, chunked),
            "dataset 'inputs/x' claims 4398046511104 bytes and the file stores 0: truncated or damaged file");
  EXPECT_EQ(with({hsize_t{1} << 38, 4}, H5P_DEFAULT),
            "dataset 'inputs/x' claims 4398046511104 bytes and the file stores 0: truncated or damaged file");
  EXPECT_EQ(with({3, 4}, outside), "dataset 'inputs/x' keeps its data in other files: want the data itself");
  H5Pclose(chunked);
  H5Pclose(outside);
}

TEST_F(BadInputTest, LinksAreRefused) {
  const std::string refused = "'inputs/x' is a symbolic or external link: want the data itself";
  EXPECT_EQ(after([&](hid_t file) {
              H5Ldelete(file, "inputs/x", H5P_DEFAULT);
              H5Lcreate_soft("/outputs/y", file, "inputs/x", H5P_DEFAULT, H5P_DEFAULT);
            }),
            refused);
  EXPECT_EQ(after([&](hid_t file) {
              H5Ldelete(file, "inputs/x", H5P_DEFAULT);
              H5Lcreate_external(good_.c_str(), "inputs/x", file, "inputs/x", H5P_DEFAULT, H5P_DEFAULT);
            }),
            refused);
  EXPECT_EQ(after([&](hid_t file) {  // a group inside itself
              H5Lcreate_hard(file, "inputs", file, "inputs/loop", H5P_DEFAULT, H5P_DEFAULT);
            }),
            "group 'inputs/loop/loop/loop' nests too deep");
}

TEST_F(BadInputTest, ResultsFiles) {
  const auto results_of = [&](const std::function<void(hid_t)>& fill) {
    const hid_t file = H5Fcreate(bad_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    fill(file);
    H5Fclose(file);
    return without_path(error_of([&] { read_results(bad_); }));
  };
  EXPECT_EQ(results_of([](hid_t) {}), "holds no dataset in the groups outputs, grads and stages");
  EXPECT_EQ(results_of([](hid_t file) {
              H5Gclose(H5Gcreate2(file, "outputs", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
              put_dataset(file, "outputs/y", H5T_IEEE_F32LE, {3, 4}, H5T_NATIVE_FLOAT, nullptr, nullptr);
            }),
            "dataset 'outputs/y' claims 48 bytes and the file stores 0: truncated or damaged file");
}

TEST_F(BadInputTest, AFailedWriteLeavesNothingBehind) {
  const auto writing = [&](const fs::path& path, const GoldenFile& file) {
    return error_of([&] { write_golden(path, file); });
  };
  EXPECT_EQ(writing(at("nowhere/a.h5"), small_mlp()),
            at("nowhere/a.h5").string() + ": cannot write here: No such file or directory");
  EXPECT_EQ(writing(good_ / "a.h5", small_mlp()),
            (good_ / "a.h5").string() + ": cannot write here: Not a directory");
  fs::create_directory(at("folder.h5"));
  EXPECT_EQ(writing(at("folder.h5"), small_mlp()),
            at("folder.h5").string() + ": cannot write here: Is a directory");

  GoldenFile file = small_mlp();
  file.bounds.at("outputs/y").set(7, std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(writing(bad_, file),
            bad_.string() + ": dataset 'bounds/outputs/y' holds NaN at element 7: want bounds of 0 or more");
  file = small_mlp();
  file.call.tensors.at("inputs/x").set(0, INFINITY);
  EXPECT_EQ(writing(bad_, file), bad_.string() +
                                     ": dataset 'inputs/x' holds an infinity at element 0: want finite "
                                     "values, or the attribute allow_nonfinite = 1");
  file = small_mlp();
  file.results.erase("grads/x");
  EXPECT_EQ(writing(bad_, file),
            bad_.string() + ": dataset 'bounds/grads/x' bounds a dataset that is not there");
  file.bounds.clear();
  EXPECT_EQ(writing(bad_, file), bad_.string() + ": missing dataset 'grads/x'");
  EXPECT_EQ(names().size(), 2u);
}

TEST_F(BadInputTest, AFullDiskLeavesTheOldFile) {
  const std::string before = testing::bytes_of(good_);
  GoldenFile file = small_mlp(DType::float64);
  file.results["stages/large"] = testing::small_numbers(DType::float64, {1000, 1000});
  rlimit old{};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100000, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = error_of([&] { write_golden(good_, file); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, ignored);
  EXPECT_EQ(message, good_.string() + ": dataset 'stages/large' cannot be written: is the disk full?");
  EXPECT_EQ(testing::bytes_of(good_), before);
  EXPECT_EQ(names(), std::vector<std::string>{"good.h5"});
}

TEST_F(BadInputTest, Lists) {
  const auto listing = [](const std::vector<fs::path>& paths) {
    return error_of([&] { list_golden_files(paths); });
  };
  fs::create_directory(at("empty"));
  EXPECT_EQ(listing({}), "no golden file or folder was given");
  EXPECT_EQ(listing({good_, at("nowhere")}), at("nowhere").string() + ": no such file or folder");
  EXPECT_EQ(listing({good_, at("empty")}), at("empty").string() + ": this folder holds no .h5 file");
}

}  // namespace
}  // namespace moeref
