#include "tools/commands/tests/damaged_golden.hpp"

#include <hdf5.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace moeref::testing {

namespace fs = std::filesystem;

namespace {

hid_t checked(hid_t id) {
  if (id < 0) throw std::runtime_error("HDF5 refuses what the test asks of it");
  return id;
}

void edit(const fs::path& path, const std::function<void(hid_t)>& change) {
  const hid_t file = checked(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT));
  change(file);
  H5Fclose(file);
}

/// Replaces the attribute; `value` points to an element of `type`.
void put_attribute(hid_t object, const char* name, hid_t type, const void* value) {
  if (H5Aexists(object, name) > 0) H5Adelete(object, name);
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = checked(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
  H5Awrite(attribute, type, value);
  H5Aclose(attribute);
  H5Sclose(space);
}

void put_text(hid_t object, const char* name, const std::string& text) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  const char* pointer = text.c_str();
  put_attribute(object, name, type, &pointer);
  H5Tclose(type);
}

std::string get_text(hid_t object, const char* name) {
  const hid_t attribute = checked(H5Aopen(object, name, H5P_DEFAULT));
  const hid_t type = H5Aget_type(attribute);
  char* pointer = nullptr;
  H5Aread(attribute, type, &pointer);
  std::string text = pointer;
  H5free_memory(pointer);
  H5Tclose(type);
  H5Aclose(attribute);
  return text;
}

/// All elements as doubles; `change` may write into them.
void edit_values(const fs::path& path, const std::string& name,
                 const std::function<void(std::vector<double>&)>& change) {
  edit(path, [&](hid_t file) {
    const hid_t dataset = checked(H5Dopen2(file, name.c_str(), H5P_DEFAULT));
    const hid_t space = H5Dget_space(dataset);
    std::vector<double> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
    H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    change(values);
    H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    H5Sclose(space);
    H5Dclose(dataset);
  });
}

hid_t native_type(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return H5T_NATIVE_DOUBLE;
    case DType::int64:
      return H5T_NATIVE_INT64;
    case DType::boolean:
      return H5T_NATIVE_UINT8;
    default:
      return H5T_NATIVE_FLOAT;
  }
}

}  // namespace

void set_text(const fs::path& file, const std::string& attribute, const std::string& text) {
  edit(file, [&](hid_t root) { put_text(root, attribute.c_str(), text); });
}

void set_number(const fs::path& file, const std::string& attribute, std::int64_t number) {
  edit(file, [&](hid_t root) { put_attribute(root, attribute.c_str(), H5T_NATIVE_INT64, &number); });
}

void set_field(const fs::path& file, const std::string& attribute, const std::string& field,
               const std::string& value) {
  edit(file, [&](hid_t root) {
    auto object = nlohmann::json::parse(get_text(root, attribute.c_str()));
    object[field] = nlohmann::json::parse(value);
    put_text(root, attribute.c_str(), object.dump());
  });
}

void remove_dataset(const fs::path& file, const std::string& dataset) {
  edit(file, [&](hid_t root) { H5Ldelete(root, dataset.c_str(), H5P_DEFAULT); });
}

void replace_dataset(const fs::path& file, const std::string& name, DType dtype, const Shape& shape) {
  edit(file, [&](hid_t root) {
    if (H5Lexists(root, name.c_str(), H5P_DEFAULT) > 0) H5Ldelete(root, name.c_str(), H5P_DEFAULT);
    const std::vector<hsize_t> extents(shape.begin(), shape.end());
    const hid_t space = H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
    const hid_t dataset = checked(
        H5Dcreate2(root, name.c_str(), native_type(dtype), space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    const std::vector<double> zeros(static_cast<std::size_t>(element_count(shape)));
    H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data());
    put_text(dataset, "dtype", std::string(moeref::name(dtype)));
    H5Dclose(dataset);
    H5Sclose(space);
  });
}

double value_at(const fs::path& file, const std::string& dataset, std::size_t index) {
  double value = 0.0;
  edit_values(file, dataset, [&](std::vector<double>& values) { value = values.at(index); });
  return value;
}

void set_value(const fs::path& file, const std::string& dataset, std::size_t index, double value) {
  edit_values(file, dataset, [&](std::vector<double>& values) { values.at(index) = value; });
}

void truncate(const fs::path& file, std::uintmax_t bytes) { fs::resize_file(file, bytes); }

}  // namespace moeref::testing
