// Checks by the compiler that a table has one row per enumerator.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>

namespace moeref {

/// Whether the value has a name: the compiler prints "moeref::ScoreFunc::softmax" for an enumerator and
/// "(moeref::ScoreFunc)5" for any other value.
template <auto Value>
constexpr bool is_enumerator() {
  return std::string_view(__PRETTY_FUNCTION__).find("= (") == std::string_view::npos;
}

/// Whether `Count` enumerators, numbered from 0 on, are all that the enum has.
template <typename Enum, std::size_t Count>
constexpr bool has_enumerators() {
  return is_enumerator<static_cast<Enum>(Count - 1)>() && !is_enumerator<static_cast<Enum>(Count)>();
}

/// Whether the rows of the table stand for all enumerators of their `kind`, in the order of the enum.
template <const auto& Table>
constexpr bool has_row_per_enumerator() {
  using Enum = decltype(Table[0].kind);
  for (std::size_t i = 0; i < Table.size(); ++i)
    if (static_cast<std::size_t>(Table[i].kind) != i) return false;
  return has_enumerators<std::remove_cv_t<Enum>, Table.size()>();
}

}  // namespace moeref
