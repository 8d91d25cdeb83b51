// The committed files are what their recipes give: regenerated one by one and compared bit for bit.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "golden/catalogue/generate.hpp"
#include "golden/catalogue/recipes.hpp"
#include "golden/format/manifest.hpp"
#include "moeref/golden_file.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

const fs::path kCases = MOEREF_GOLDEN_CASES;

/// What a reader gets of a file that was just generated.
GoldenFile regenerate(const CaseSpec& spec) {
  const fs::path folder = fs::path(testing::TempDir()) / "moeref_committed_test";
  fs::create_directories(folder);
  const GeneratedCase made = generate_case(spec);
  write_golden(folder / file_name(spec), made.file, made.evaluation);
  GoldenFile back = read_golden(folder / file_name(spec));
  fs::remove(folder / file_name(spec));
  return back;
}

TEST(Committed, ThereIsOneFileARecipeAndNoOther) {
  std::set<fs::path> want, have;
  for (const CaseSpec& spec : recipes()) want.insert(file_name(spec));
  for (const auto& entry : fs::directory_iterator(kCases))
    if (entry.path().extension() == ".h5") have.insert(entry.path().filename());
  EXPECT_EQ(want, have) << "moeref generate --out golden/cases makes them anew";
}

TEST(Committed, AtLeast150Cases) { EXPECT_GE(recipes().size(), 150U); }

TEST(Committed, EveryFileIsWhatItsRecipeGives) {
  for (const CaseSpec& spec : recipes()) {
    SCOPED_TRACE(label(spec));
    const auto difference = first_difference(read_golden(kCases / file_name(spec)), regenerate(spec));
    EXPECT_FALSE(difference.has_value()) << *difference;
  }
}

TEST(Committed, ManifestsHold) {
  for (const char* folder : {MOEREF_GOLDEN_CASES, MOEREF_DOCUMENTED_SYSTEM})
    for (const std::string& line : verify_manifest(folder)) ADD_FAILURE() << folder << ": " << line;
}

TEST(Committed, AllFilesTogetherStayUnder48MB) {
  std::uintmax_t bytes = 0;
  for (const fs::path& folder : {kCases, fs::path(MOEREF_DOCUMENTED_SYSTEM)})
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file()) bytes += entry.file_size();
  EXPECT_LE(bytes, std::uintmax_t{48'000'000});
}

}  // namespace
}  // namespace moeref
