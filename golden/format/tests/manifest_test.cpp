#include "golden/format/manifest.hpp"

#include <algorithm>
#include <span>
#include <string>

#include "golden/format/tests/sample_files.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using testing::write_bytes;

std::string sha256_of_text(const std::string& text) { return sha256(std::as_bytes(std::span(text))); }

TEST(Sha256, TestVectors) {  // FIPS 180-4 and its published examples
  EXPECT_EQ(sha256_of_text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_of_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of_text("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_of_text(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesOfAnySizeGiveTheSameDigest) {
  for (std::size_t length = 0; length < 200; ++length) {
    const std::string text(length, 'm');
    for (const std::size_t piece : {1, 7, 63, 64, 65}) {
      Sha256 hash;
      for (std::size_t i = 0; i < length; i += piece)
        hash.update(std::as_bytes(std::span(text)).subspan(i, std::min(piece, length - i)));
      EXPECT_EQ(hash.hex_digest(), sha256_of_text(text));
    }
  }
}

using ManifestTest = testing::GoldenFolder;

TEST_F(ManifestTest, NamesWhatIsMissingExtraOrChanged) {
  std::filesystem::create_directories(at("sub"));
  for (const char* name : {"a.h5", "b.h5", "sub/c.h5", "notes.txt"}) write_bytes(at(name), name);
  write_manifest(folder_);
  EXPECT_EQ(testing::bytes_of(at(kManifestName)), manifest_of(folder_));
  EXPECT_EQ(manifest_of(folder_), sha256_of_text("a.h5") + "  a.h5\n" + sha256_of_text("b.h5") + "  b.h5\n" +
                                      sha256_of_text("sub/c.h5") + "  sub/c.h5\n");
  EXPECT_TRUE(verify_manifest(folder_).empty());
  write_bytes(at("a.h5"), "A.h5");
  std::filesystem::remove(at("sub/c.h5"));
  write_bytes(at("d.h5"), "");
  write_bytes(at("notes.txt"), "not a golden file");
  EXPECT_EQ(verify_manifest(folder_),
            (std::vector<std::string>{"changed: a.h5", "extra: d.h5", "missing: sub/c.h5"}));
}

std::string error_of(const std::filesystem::path& folder) {
  try {
    verify_manifest(folder);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(ManifestTest, BadManifests) {
  const std::string path = at(kManifestName).string();
  EXPECT_EQ(error_of(folder_), path + ": no such manifest");
  const std::string line = sha256_of_text("") + "  a.h5\n";
  write_bytes(path, line + "nonsense\n");
  EXPECT_EQ(error_of(folder_), path + ": line 2 is not '<sha256>  <path>'");
  write_bytes(path, line + line);
  EXPECT_EQ(error_of(folder_), path + ": line 2 names a file that has a line already");
  EXPECT_THROW(write_manifest(at("nowhere")), InputError);
}

TEST(DocumentedSystem, IsAsItsManifestSays) {
  EXPECT_EQ(verify_manifest(MOEREF_DOCUMENTED_SYSTEM), std::vector<std::string>{});
}

}  // namespace
}  // namespace moeref
