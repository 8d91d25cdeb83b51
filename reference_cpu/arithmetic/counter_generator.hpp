// A counter-based generator: every value is a pure function of (seed, tensor name, element index).
//
// So a tensor can be drawn in any order, in parts, on any number of ranks, on CPU or GPU, and a smaller
// tensor has the same values at the indices that it still has. Philox4x32-10 (Salmon, Moraes, Dror, Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011): key = seed, counter = (block number, hash of the
// tensor name). A block of 128 bits holds the words of elements 2 b and 2 b + 1. The same words feed every
// kind of draw: use another name for another kind.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "reference_cpu/arithmetic/exact_math.hpp"

namespace moeref {

struct PhiloxBlock {
  std::uint32_t word[4];
};

/// Ten rounds on a 128-bit counter under a 64-bit key, least significant word first.
MOEREF_HOST_DEVICE inline PhiloxBlock philox4x32_10(PhiloxBlock counter, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0, b = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every platform, unlike std::hash.
constexpr std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// The odd multiple of 2^-53 nearest to bits / 2^64: strictly inside (0, 1), symmetric about 1/2, mean
/// exactly 1/2.
MOEREF_HOST_DEVICE inline double open_unit(std::uint64_t bits) {
  // A number of [1, 2) from 52 bits, less 1 - 2^-53: every step is exact and none converts 64-bit integers.
  return exact::detail::from_bits((bits >> 12) | 0x3ff0000000000000u) - (1.0 - 0x1p-53);
}

/// Two independent standard normals from two uniforms in (0, 1) (Box and Muller 1958). At most 8.6 in
/// magnitude.
struct NormalPair {
  double even, odd;
};
MOEREF_HOST_DEVICE inline NormalPair box_muller(double u1, double u2) {
  const double radius = exact::sqrt(-2.0 * exact::log(u1));
  const exact::SinCos angle = exact::sin_cos_turns(u2);
  return {radius * angle.cos, radius * angle.sin};
}

/// The values of one named tensor.
class CounterGenerator {
 public:
  MOEREF_HOST_DEVICE CounterGenerator(std::uint64_t seed, std::uint64_t name_hash)
      : seed_(seed), name_(name_hash) {}
  CounterGenerator(std::uint64_t seed, std::string_view name) : CounterGenerator(seed, name_hash(name)) {}

  /// The 64 bits of an element.
  MOEREF_HOST_DEVICE std::uint64_t bits(std::uint64_t index) const {
    const Words words = block(index >> 1);
    return index & 1 ? words.odd : words.even;
  }

  /// Uniform in (0, 1), see open_unit.
  MOEREF_HOST_DEVICE double uniform(std::uint64_t index) const { return open_unit(bits(index)); }

  /// Uniform in {0, ..., n - 1}: floor(bits n / 2^64), so that the probability of a value differs from 1 / n
  /// by n / 2^64 at most. 0 for n = 0.
  MOEREF_HOST_DEVICE std::uint64_t integer(std::uint64_t index, std::uint64_t n) const {
    const std::uint64_t x = bits(index), x0 = x & 0xffffffffu, x1 = x >> 32, n0 = n & 0xffffffffu,
                        n1 = n >> 32;
    const std::uint64_t middle = x1 * n0 + ((x0 * n0) >> 32), low = x0 * n1 + (middle & 0xffffffffu);
    return x1 * n1 + (middle >> 32) + (low >> 32);
  }

  /// Standard normal. Elements 2 b and 2 b + 1 are one Box-Muller pair.
  MOEREF_HOST_DEVICE double normal(std::uint64_t index) const {
    const Words words = block(index >> 1);
    const NormalPair pair = box_muller(open_unit(words.even), open_unit(words.odd));
    return index & 1 ? pair.odd : pair.even;
  }

  /// Writes normal(first_index + i) to out[i], in about a third of the time of single calls.
  void normals(std::uint64_t first_index, std::span<double> out) const {
    std::size_t done = 0;
    if ((first_index & 1) != 0 && !out.empty()) out[done++] = normal(first_index);
    for (; done + 2 <= out.size();) {
      const std::size_t pairs = std::min(kChunk, (out.size() - done) / 2);
      normal_pairs((first_index + done) >> 1, pairs, out.data() + done);
      done += 2 * pairs;
    }
    if (done < out.size()) out[done] = normal(first_index + done);
  }

 private:
  struct Words {
    std::uint64_t even, odd;
  };
  static constexpr std::size_t kChunk = 256;  // pairs; the three arrays below fit in the first-level cache

  MOEREF_HOST_DEVICE Words block(std::uint64_t number) const {
    const PhiloxBlock random =
        philox4x32_10({{static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32),
                        static_cast<std::uint32_t>(name_), static_cast<std::uint32_t>(name_ >> 32)}},
                      seed_);
    return {random.word[0] | std::uint64_t{random.word[1]} << 32,
            random.word[2] | std::uint64_t{random.word[3]} << 32};
  }

  /// box_muller for many pairs, one loop per step, so that compilers vectorise each loop.
  void normal_pairs(std::uint64_t first_block, std::size_t pairs, double* out) const {
    std::array<double, kChunk> radius, turns;
    for (std::size_t i = 0; i < pairs; ++i) {
      const Words words = block(first_block + i);
      radius[i] = open_unit(words.even);
      turns[i] = open_unit(words.odd);
    }
    for (std::size_t i = 0; i < pairs; ++i) radius[i] = -2.0 * exact::log(radius[i]);
    for (std::size_t i = 0; i < pairs; ++i) radius[i] = exact::sqrt(radius[i]);
    for (std::size_t i = 0; i < pairs; ++i) {
      const exact::SinCos angle = exact::sin_cos_turns(turns[i]);
      out[2 * i] = radius[i] * angle.cos;
      out[2 * i + 1] = radius[i] * angle.sin;
    }
  }

  std::uint64_t seed_, name_;
};

/// Standard normals of elements [first_index, first_index + out.size()) of the named tensor.
inline void normal_fill(std::uint64_t seed, std::string_view name, std::uint64_t first_index,
                        std::span<double> out) {
  CounterGenerator(seed, name).normals(first_index, out);
}

}  // namespace moeref
