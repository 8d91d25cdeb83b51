// Ways to make a good HDF5 file a bad one, through HDF5 itself.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref::testing {

/// A root attribute's text.
void set_text(const std::filesystem::path& file, const std::string& attribute, const std::string& text);

/// A root attribute's number.
void set_number(const std::filesystem::path& file, const std::string& attribute, std::int64_t number);

/// A field of the JSON in a root attribute; `value` is JSON.
void set_field(const std::filesystem::path& file, const std::string& attribute, const std::string& field,
               const std::string& value);

void remove_dataset(const std::filesystem::path& file, const std::string& dataset);

/// Another dataset in its place, filled with zeros; its attribute dtype says what it is.
void replace_dataset(const std::filesystem::path& file, const std::string& dataset, DType dtype,
                     const Shape& shape);

double value_at(const std::filesystem::path& file, const std::string& dataset, std::size_t index);
void set_value(const std::filesystem::path& file, const std::string& dataset, std::size_t index,
               double value);

/// Keeps the first `bytes` of the file.
void truncate(const std::filesystem::path& file, std::uintmax_t bytes);

}  // namespace moeref::testing
