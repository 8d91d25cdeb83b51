#include "property_tests/suite/thresholds.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <type_traits>

#include "property_tests/descriptor/descriptor_fields.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kLeast = 8;

struct Words {
  std::string_view field, words;
};
constexpr auto kWords = std::to_array<Words>({{"T", "tokens"},
                                              {"batch", "sequences"},
                                              {"E", "experts"},
                                              {"k", "slots of a token"},
                                              {"groups", "groups"},
                                              {"limited", "groups of a token"},
                                              {"D", "columns"},
                                              {"I", "hidden columns"},
                                              {"latent", "latent columns"},
                                              {"shared", "shared experts"},
                                              {"rows", "rows of an expert"}});

std::string in_words(const Descriptor& d, std::string_view field, std::int64_t extent) {
  if (field == "T" && d.component == Component::metrics) return fmt::format("{} layers", extent);
  // Permuted rows are what an expert's kernels count.
  if (field == "T" && has_routed_experts(d.component) && d.k > 1)
    return fmt::format("{} tokens, {} rows,", extent, extent * d.k);
  const auto found = std::ranges::find(kWords, field, &Words::field);
  return fmt::format("{} {}", extent, found == kWords.end() ? field : found->words);
}

/// A size of the descriptor by its word.
std::int64_t* size_of(Descriptor& d, std::string_view wanted) {
  std::int64_t* out = nullptr;
  visit_fields(d, [&](std::string_view field, auto& member, FieldKind) {
    if constexpr (std::is_same_v<decltype(member), std::int64_t&>)
      if (field == wanted) out = &member;
  });
  return out;
}

/// Whether the case fails with another extent; nothing where there is no such case or it shows nothing.
std::optional<bool> fails_at(const Property& property, Implementation& implementation, Descriptor d,
                             std::string_view field, std::int64_t extent) {
  std::int64_t& size = *size_of(d, field);
  size = extent;
  prepare(property, d);
  if (size != extent) return std::nullopt;
  const Outcome::Kind kind = examine(property, implementation, d).kind;
  if (kind != Outcome::Kind::failed && kind != Outcome::Kind::passed) return std::nullopt;
  return kind == Outcome::Kind::failed;
}

}  // namespace

std::vector<std::string> thresholds(const Property& property, Implementation& implementation,
                                    const Descriptor& failing,
                                    std::chrono::steady_clock::time_point deadline) {
  std::vector<std::string> out;
  visit_fields(failing, [&](std::string_view field, const auto& member, FieldKind) {
    if constexpr (std::is_same_v<decltype(member), const std::int64_t&>) {
      if (member < kLeast || std::chrono::steady_clock::now() > deadline) return;
      const auto fails = [&](std::int64_t extent) {
        return fails_at(property, implementation, failing, field, extent);
      };
      if (fails(member - 1) != false) return;
      const std::optional<bool> more = fails(member + 1);
      const std::string at = in_words(failing, field, member);
      if (more == false)
        out.push_back(fmt::format("wrong at {}, right at {} and at {}", at, member - 1, member + 1));
      else
        out.push_back(fmt::format("wrong from {} on ({} pass)", at, member - 1));
    }
  });
  return out;
}

}  // namespace moeref
