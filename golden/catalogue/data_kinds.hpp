// The tables behind data_choice.hpp: every kind of data once, with its parameters, next to the code that
// draws it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "golden/catalogue/data_choice.hpp"
#include "moeref/error.hpp"

namespace moeref {

inline constexpr double kUnlimited = 1e30;

struct DataParameter {
  std::string_view name;
  double fallback;
  double least = -kUnlimited, most = kUnlimited;
};

struct DataKind {
  std::string_view name;
  std::vector<DataParameter> parameters;
};

std::vector<DataKind> real_kinds();  // draw_reals.cpp
std::vector<DataKind> mask_kinds();  // draw_integers.cpp
std::vector<DataKind> id_kinds();
std::vector<DataKind> load_kinds();

/// The entry of a table whose entries have a `name`; null if none has this one.
template <typename Table>
const typename Table::value_type* find_kind(const Table& table, std::string_view name) {
  for (const auto& entry : table)
    if (entry.name == name) return &entry;
  return nullptr;
}

/// The same; throws InputError if there is none.
template <typename Table>
const typename Table::value_type& require_kind(const Table& table, std::string_view name) {
  if (const auto* entry = find_kind(table, name)) return *entry;
  throw InputError("unknown kind of data '" + std::string(name) + "'");
}

/// The names and parameters alone.
template <typename Table>
std::vector<DataKind> without_code(const Table& table) {
  return {table.begin(), table.end()};
}

}  // namespace moeref
