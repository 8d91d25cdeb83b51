// SHA-256 manifests of folders of golden files, in the text format of sha256sum.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace moeref {

/// FIPS 180-4.
class Sha256 {
 public:
  void update(std::span<const std::byte> data);

  /// 64 lower-case hexadecimal digits. The object is used up.
  std::string hex_digest();

 private:
  void compress(const std::byte* block);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t length_ = 0;  ///< bytes so far
};

std::string sha256(std::span<const std::byte> data);

/// Throws InputError naming the file when it cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

/// The manifest's name inside its folder; `sha256sum --check MANIFEST.sha256` there verifies it too.
inline constexpr const char* kManifestName = "MANIFEST.sha256";

/// "<sha256>  <relative/path>\n" for every .h5 file under `folder`, sorted by path. Throws InputError naming
/// the folder when it cannot be read.
std::string manifest_of(const std::filesystem::path& folder);

/// Writes manifest_of(folder) to folder/MANIFEST.sha256, under a temporary name first. Throws InputError.
void write_manifest(const std::filesystem::path& folder);

/// One line for each .h5 file that is "missing: PATH", "extra: PATH" or "changed: PATH", sorted by path;
/// nothing when the folder is as its manifest says. Throws InputError when there is no manifest, or naming a
/// line that is not one.
std::vector<std::string> verify_manifest(const std::filesystem::path& folder);

}  // namespace moeref
