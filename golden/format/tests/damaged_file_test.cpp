// Damage anywhere in a file is an InputError or goes unnoticed by HDF5's own checks; it never ends the
// program.
#include <cstdlib>
#include <random>

#include "golden/format/tests/sample_files.hpp"
#include "moeref/error.hpp"
#include "moeref/golden_file.hpp"

namespace moeref {
namespace {

using DamagedFileTest = testing::GoldenFolder;

/// True if every way of reading accepted the file.
bool reads(const std::filesystem::path& path) {
  bool accepted = true;
  const auto attempt = [&](auto&& read) {
    try {
      read(path);
    } catch (const InputError& error) {
      const std::string what = error.what();
      EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      accepted = false;
    }
  };
  attempt([](const auto& p) { read_golden(p); });
  attempt([](const auto& p) { read_golden_header(p); });
  attempt([](const auto& p) { read_results(p); });
  return accepted;
}

/// Reads `bytes` with one to three of them changed, many times.
void read_damaged(const std::string& bytes, const std::filesystem::path& path) {
  std::mt19937 random(20260822);
  const char* longer = std::getenv("MOEREF_DAMAGE_ROUNDS");  // for long runs by hand
  const int rounds = longer ? std::atoi(longer) : 100;
  for (int round = 0; round < rounds; ++round) {
    std::string damaged = bytes;
    for (int change = round % 3; change >= 0; --change)
      damaged[random() % bytes.size()] = static_cast<char>(random());
    testing::write_bytes(path, damaged);
    reads(path);
  }
}

TEST_F(DamagedFileTest, Truncated) {
  write_golden(at("good.h5"), testing::small_mlp());
  const std::string bytes = testing::bytes_of(at("good.h5"));
  for (std::size_t length = 0; length < bytes.size(); length += bytes.size() / 30) {
    testing::write_bytes(at("bad.h5"), bytes.substr(0, length));
    EXPECT_FALSE(reads(at("bad.h5"))) << length;
  }
}

TEST_F(DamagedFileTest, ChangedBytes) {
  GoldenFile file = testing::small_mlp();
  file.results["stages/compressed"] = testing::small_numbers(DType::float32, {2000});
  write_golden(at("good.h5"), file);
  read_damaged(testing::bytes_of(at("good.h5")), at("bad.h5"));
}

/// HDF5's older format, as most programs write it, has no checksums.
TEST_F(DamagedFileTest, ChangedBytesWithoutChecksums) {
  read_damaged(testing::bytes_of(std::filesystem::path(MOEREF_DOCUMENTED_SYSTEM) / "gate__top1.h5"),
               at("bad.h5"));
}

}  // namespace
}  // namespace moeref
