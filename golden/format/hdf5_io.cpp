#include "golden/format/hdf5_io.hpp"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "moeref/error.hpp"

namespace moeref::hdf5 {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "16-bit elements are read as they stand in memory");

/// Far past any recipe; a damaged length is refused before it is allocated.
constexpr std::size_t kLongestText = std::size_t{1} << 20;

struct FloatLayout {
  std::size_t size, sign, exponent, exponent_bits, mantissa, mantissa_bits, bias;
  friend bool operator==(const FloatLayout&, const FloatLayout&) = default;
};
constexpr FloatLayout kBfloat16{2, 15, 7, 8, 0, 7, 127};
constexpr FloatLayout kFloat16{2, 15, 10, 5, 0, 10, 15};

Handle make_float(const FloatLayout& f) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  // The order matters: fields must lie inside the size at every step.
  if (H5Tset_fields(type.get(), f.sign, f.exponent, f.exponent_bits, f.mantissa, f.mantissa_bits) < 0 ||
      H5Tset_size(type.get(), f.size) < 0 || H5Tset_ebias(type.get(), f.bias) < 0)
    throw std::logic_error("HDF5 refused a 16-bit float type");
  return type;
}

FloatLayout layout_of(hid_t type) {
  FloatLayout f{};
  H5Tget_fields(type, &f.sign, &f.exponent, &f.exponent_bits, &f.mantissa, &f.mantissa_bits);
  f.size = H5Tget_size(type);
  f.bias = H5Tget_ebias(type);
  return f;
}

/// h5py writes bool as an enumeration of one byte with FALSE = 0 and TRUE = 1.
bool is_boolean_enumeration(hid_t type) {
  std::int8_t no = -1, yes = -1;
  return H5Tget_size(type) == 1 && H5Tget_nmembers(type) == 2 && H5Tenum_valueof(type, "FALSE", &no) >= 0 &&
         H5Tenum_valueof(type, "TRUE", &yes) >= 0 && no == 0 && yes == 1;
}

[[noreturn]] void bad_attribute(const std::string& attribute, const char* what) {
  throw InputError("attribute '" + attribute + "' " + what);
}

/// An attribute of one element, opened; nothing where there is none.
std::optional<Handle> open_attribute(hid_t object, const std::string& attribute) {
  const htri_t exists = H5Aexists(object, attribute.c_str());
  if (exists == 0) return std::nullopt;
  Handle handle(exists < 0 ? -1 : H5Aopen(object, attribute.c_str(), H5P_DEFAULT), H5Aclose);
  if (!handle) bad_attribute(attribute, "cannot be read: truncated or damaged file");
  const Handle space(H5Aget_space(handle.get()), H5Sclose);
  if (H5Sget_simple_extent_npoints(space.get()) != 1) bad_attribute(attribute, "is not a single value");
  return handle;
}

}  // namespace

Quiet::Quiet() {
  H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}
Quiet::~Quiet() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }

Handle file_access() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110);
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 12 && H5_VERS_RELEASE < 1)
  H5Pset_file_locking(access.get(), false, true);
#endif
  return access;
}

Handle open_file(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) throw InputError("no such file");
  if (status.type() == fs::file_type::directory) throw InputError("is a folder: want an HDF5 file");
  if (status.type() != fs::file_type::regular) throw InputError("is not a regular file");
  if (::access(path.c_str(), R_OK) != 0)
    throw InputError("cannot be opened: " + std::generic_category().message(errno));
  if (H5Fis_hdf5(path.c_str()) <= 0) throw InputError("is not an HDF5 file");
  const Handle access = file_access();
  Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  if (!file) throw InputError("is a truncated or damaged HDF5 file");
  return file;
}

Handle element_type(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::float32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case DType::bfloat16:
      return make_float(kBfloat16);
    case DType::float16:
      return make_float(kFloat16);
    case DType::int64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case DType::boolean:
    case DType::uint8:
      break;
  }
  return {H5Tcopy(H5T_STD_U8LE), H5Tclose};
}

std::optional<DType> classify(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return DType::int64;
    case H5T_ENUM:
      return is_boolean_enumeration(type) ? std::optional(DType::boolean) : std::nullopt;
    case H5T_FLOAT:
      break;
    default:
      return std::nullopt;
  }
  const FloatLayout f = layout_of(type);
  if (f == kBfloat16) return DType::bfloat16;
  if (f == kFloat16) return DType::float16;
  return f.exponent_bits <= 8 && f.mantissa_bits <= 23 ? DType::float32 : DType::float64;
}

void write_text(hid_t object, const char* attribute, const std::string& text) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const char* value = text.c_str();
  if (H5Tset_size(type.get(), H5T_VARIABLE) < 0 || H5Tset_cset(type.get(), H5T_CSET_UTF8) < 0)
    throw std::logic_error("HDF5 refused a text type");
  const Handle handle(H5Acreate2(object, attribute, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                      H5Aclose);
  if (!handle || H5Awrite(handle.get(), type.get(), &value) < 0)
    bad_attribute(attribute, "cannot be written");
}

void write_integer(hid_t object, const char* attribute, std::int64_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle handle(H5Acreate2(object, attribute, H5T_STD_I64LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                      H5Aclose);
  if (!handle || H5Awrite(handle.get(), H5T_NATIVE_INT64, &value) < 0)
    bad_attribute(attribute, "cannot be written");
}

std::optional<std::string> read_text(hid_t object, const std::string& attribute) {
  const std::optional<Handle> handle = open_attribute(object, attribute);
  if (!handle) return std::nullopt;
  const Handle type(H5Aget_type(handle->get()), H5Tclose);
  if (H5Tget_class(type.get()) != H5T_STRING) bad_attribute(attribute, "is not a text");
  if (H5Tis_variable_str(type.get()) > 0) {
    const Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(memory.get(), H5T_VARIABLE);
    H5Tset_cset(memory.get(), H5Tget_cset(type.get()));
    char* raw = nullptr;
    if (H5Aread(handle->get(), memory.get(), &raw) < 0)
      bad_attribute(attribute, "cannot be read: truncated or damaged file");
    const std::size_t length = raw ? ::strnlen(raw, kLongestText + 1) : 0;
    std::string text = raw ? std::string(raw, std::min(length, kLongestText)) : std::string();
    H5free_memory(raw);
    if (length > kLongestText) bad_attribute(attribute, "is longer than 1 MiB");
    return text;
  }
  const std::size_t size = H5Tget_size(type.get());
  if (size > kLongestText) bad_attribute(attribute, "is longer than 1 MiB");
  std::string text(size, '\0');
  if (H5Aread(handle->get(), type.get(), text.data()) < 0)
    bad_attribute(attribute, "cannot be read: truncated or damaged file");
  text.resize(::strnlen(text.data(), size));
  if (H5Tget_strpad(type.get()) == H5T_STR_SPACEPAD) text.resize(text.find_last_not_of(' ') + 1);
  return text;
}

std::optional<std::int64_t> read_integer(hid_t object, const std::string& attribute) {
  const std::optional<Handle> handle = open_attribute(object, attribute);
  if (!handle) return std::nullopt;
  const Handle type(H5Aget_type(handle->get()), H5Tclose);
  const auto kind = classify(type.get());
  if (kind != DType::int64 && kind != DType::boolean) bad_attribute(attribute, "is not an integer");
  std::int64_t value = 0;
  if (H5Aread(handle->get(), H5T_NATIVE_INT64, &value) < 0)
    bad_attribute(attribute, "cannot be read: truncated or damaged file");
  return value;
}

void for_each_block(const Shape& shape, const std::function<void(const Block&)>& visit) {
  const std::int64_t total = element_count(shape);
  if (total == 0) return;
  Block block;
  if (shape.empty()) {
    block.count = 1;
    return visit(block);
  }
  // Whole trailing axes as long as they fit, then steps along the axis before them.
  std::size_t axis = shape.size() - 1;
  std::int64_t inner = 1;
  while (axis > 0 && inner * shape[axis] <= kBlockElements) inner *= shape[axis--];
  const std::int64_t step = std::clamp<std::int64_t>(kBlockElements / inner, 1, shape[axis]);
  const std::int64_t outer = total / (inner * shape[axis]);
  block.extent.assign(shape.begin(), shape.end());
  std::fill_n(block.extent.begin(), axis, 1);
  for (std::int64_t o = 0; o < outer; ++o)
    for (std::int64_t at = 0; at < shape[axis]; at += step) {
      const std::int64_t rows = std::min(step, shape[axis] - at);
      block.start.assign(shape.size(), 0);
      block.start[axis] = static_cast<hsize_t>(at);
      block.extent[axis] = static_cast<hsize_t>(rows);
      std::int64_t rest = o;
      for (std::size_t i = axis; i-- > 0; rest /= shape[i])
        block.start[i] = static_cast<hsize_t>(rest % shape[i]);
      block.first = (o * shape[axis] + at) * inner;
      block.count = rows * inner;
      visit(block);
    }
}

std::pair<Handle, Handle> select(hid_t dataset, const Block& block) {
  Handle file(H5Dget_space(dataset), H5Sclose);
  if (!block.start.empty())
    H5Sselect_hyperslab(file.get(), H5S_SELECT_SET, block.start.data(), nullptr, block.extent.data(),
                        nullptr);
  const auto count = static_cast<hsize_t>(block.count);
  Handle memory(H5Screate_simple(1, &count, nullptr), H5Sclose);
  return {std::move(file), std::move(memory)};
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  constexpr std::size_t kLongest = 600;
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

}  // namespace moeref::hdf5
