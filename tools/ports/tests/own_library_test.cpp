// Where the command looks for the libraries that it is asked for by name.
#include "tools/ports/own_library.hpp"

#include <cstdlib>
#include <fstream>

#include "moeref/error.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;

class OwnLibraryTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    ::unsetenv("MOEREF_CUDA_PORT");
    put(at("prefix/bin/moeref"));
  }
  void TearDown() override {
    ::unsetenv("MOEREF_CUDA_PORT");
    CommandTest::TearDown();
  }
  static fs::path put(const fs::path& file) {
    fs::create_directories(file.parent_path());
    std::ofstream(file) << "x";
    return file;
  }
  fs::path found() const { return fs::relative(cuda_port_library(at("prefix/bin/moeref")), folder_); }
};

TEST_F(OwnLibraryTest, BesideTheCommandFirst) {
  put(at("prefix") / "bin" / MOEREF_INSTALLED_PORTS / "libmoeref_cuda_port.so");
  EXPECT_NE(found().string().find("/moeref/libmoeref_cuda_port.so"), std::string::npos) << found();
  put(at("prefix/bin/libmoeref_cuda_port.so"));
  EXPECT_EQ(found(), "prefix/bin/libmoeref_cuda_port.so");
}

TEST_F(OwnLibraryTest, TheEnvironmentNamesAnother) {
  put(at("prefix/bin/libmoeref_cuda_port.so"));
  ::setenv("MOEREF_CUDA_PORT", put(at("elsewhere.so")).c_str(), 1);
  EXPECT_EQ(found(), "elsewhere.so");
  ::setenv("MOEREF_CUDA_PORT", at("none.so").c_str(), 1);
  EXPECT_THROW(found(), InputError);
}

TEST_F(OwnLibraryTest, WhereThereIsNoneOneLineSaysHowToGetIt) {
  try {
    found();
    FAIL();
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()),
              "port cuda: libmoeref_cuda_port.so is not beside the command in " +
                  fs::canonical(at("prefix/bin")).string() +
                  ": build with -DMOEREF_CUDA=ON, or name the file in MOEREF_CUDA_PORT");
  }
}

/// The same table of ports as for all others: any library can stand in for it.
TEST_F(OwnLibraryTest, IsAPortLikeAnyOther) {
  const fs::path file = copy_case("gate__top1", at("cases"));
  const Finished finished =
      run_moeref({"validate", "--port", "cuda", file.string()}, {"MOEREF_CUDA_PORT=" MOEREF_EXAMPLE_PORT});
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
}

}  // namespace
}  // namespace moeref::testing
