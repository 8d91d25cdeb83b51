#include "golden/format/manifest.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "golden/format/temporary_file.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::uint32_t, 64> kRound{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t big_endian(const std::byte* p) {
  return std::to_integer<std::uint32_t>(p[0]) << 24 | std::to_integer<std::uint32_t>(p[1]) << 16 |
         std::to_integer<std::uint32_t>(p[2]) << 8 | std::to_integer<std::uint32_t>(p[3]);
}

bool is_digest(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// Relative path with '/' -> digest, of every .h5 file under the folder.
std::map<std::string, std::string> digests(const fs::path& folder) {
  std::map<std::string, std::string> out;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error))
    if (it->is_regular_file() && it->path().extension() == ".h5")
      out[it->path().lexically_relative(folder).generic_string()] = sha256_of_file(it->path());
  if (error) throw InputError(folder.string() + ": cannot list this folder: " + error.message());
  return out;
}

}  // namespace

void Sha256::compress(const std::byte* block) {
  std::array<std::uint32_t, 64> w;
  for (std::size_t i = 0; i < 16; ++i) w[i] = big_endian(block + 4 * i);
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
    const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1;
    d = c, c = b, b = a, a = t1 + t2;
  }
  const std::array<std::uint32_t, 8> add{a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state_[i] += add[i];
}

void Sha256::update(std::span<const std::byte> data) {
  while (!data.empty()) {
    const std::size_t at = length_ % 64;
    if (at == 0 && data.size() >= 64) {
      compress(data.data());
      length_ += 64;
      data = data.subspan(64);
      continue;
    }
    const std::size_t count = std::min(data.size(), 64 - at);
    std::memcpy(pending_.data() + at, data.data(), count);
    length_ += count;
    data = data.subspan(count);
    if (at + count == 64) compress(pending_.data());
  }
}

std::string Sha256::hex_digest() {
  const std::uint64_t bits = 8 * length_;
  constexpr std::array<std::byte, 64> padding{std::byte{0x80}};
  update(std::span(padding).first(1 + (119 - length_ % 64) % 64));
  std::array<std::byte, 8> tail;
  for (std::size_t i = 0; i < 8; ++i) tail[i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  update(tail);
  std::string text;
  for (const std::uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

std::string sha256(std::span<const std::byte> data) {
  Sha256 hash;
  hash.update(data);
  return hash.hex_digest();
}

std::string sha256_of_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(1 << 16);
  Sha256 hash;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0)
    hash.update(std::as_bytes(std::span(buffer).first(static_cast<std::size_t>(in.gcount()))));
  if (!in.eof()) throw InputError(path.string() + ": cannot read this file");
  return hash.hex_digest();
}

std::string manifest_of(const fs::path& folder) {
  std::string text;
  for (const auto& [path, digest] : digests(folder)) text += digest + "  " + path + "\n";
  return text;
}

void write_manifest(const fs::path& folder) {
  const std::string text = manifest_of(folder);
  const fs::path path = folder / kManifestName;
  try {
    TemporaryFile file(path);
    std::ofstream out(file.path(), std::ios::binary);
    out << text;
    out.close();
    if (!out) throw InputError("cannot be written: is the disk full?");
    file.commit();
  } catch (const InputError& error) {
    throw InputError(path.string() + ": " + error.what());
  }
}

std::vector<std::string> verify_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw InputError(path.string() + ": no such manifest");
  std::map<std::string, std::string> want;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    const bool ok =
        line.size() > 66 && is_digest(std::string_view(line).substr(0, 64)) && line.substr(64, 2) == "  ";
    if (!ok || !want.emplace(line.substr(66), line.substr(0, 64)).second)
      throw InputError(path.string() + ": line " + std::to_string(number) +
                       (ok ? " names a file that has a line already" : " is not '<sha256>  <path>'"));
  }
  const auto have = digests(folder);
  std::map<std::string, const char*> findings;
  for (const auto& [name, digest] : want) {
    const auto it = have.find(name);
    if (it == have.end())
      findings[name] = "missing: ";
    else if (it->second != digest)
      findings[name] = "changed: ";
  }
  for (const auto& [name, digest] : have)
    if (!want.contains(name)) findings[name] = "extra: ";
  std::vector<std::string> lines;
  for (const auto& [name, finding] : findings) lines.push_back(finding + name);
  return lines;
}

}  // namespace moeref
