#include "golden/format/hdf5_source.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "moeref/error.hpp"

namespace moeref::hdf5 {
namespace {

constexpr const char* kDamaged = " cannot be read: truncated or damaged file";
constexpr int kDeepestGroup = 4;
/// Deflate cannot do better than 1032 : 1; anything above is a forged size.
constexpr std::uint64_t kBestCompression = 1032;

std::string dataset_name(std::string_view path) { return "dataset '" + std::string(path) + "'"; }

std::string to_text(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.9g", value);
  return text.data();
}

/// Names in a group, with those of links that are not hard ones marked.
struct Link {
  std::string name;
  bool hard = true;
};

std::vector<Link> links_of(hid_t group, const std::string& path) {
  std::vector<Link> links;
  const auto collect = [](hid_t, const char* name, const H5L_info_t* info, void* out) -> herr_t {
    try {
      static_cast<std::vector<Link>*>(out)->push_back({name, info->type == H5L_TYPE_HARD});
      return 0;
    } catch (...) {
      return -1;  // no exception may pass through C code
    }
  };
  if (H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &links) < 0)
    throw InputError("group '/" + path + "'" + kDamaged);
  return links;
}

/// Below one link: datasets are visited, groups are entered.
void descend(hid_t parent, const Link& link, const std::string& path, int depth, const Source::Visit& visit) {
  if (!link.hard) throw InputError("'" + path + "' is a symbolic or external link: want the data itself");
  const Handle object(H5Oopen(parent, link.name.c_str(), H5P_DEFAULT), H5Oclose);
  if (!object) throw InputError("'" + path + "'" + kDamaged);
  const H5I_type_t type = H5Iget_type(object.get());
  if (type == H5I_DATASET && depth > 1) return visit(path, object.get());
  if (type != H5I_GROUP) throw InputError("'" + path + "' is not a " + (depth > 1 ? "dataset" : "group"));
  if (depth == kDeepestGroup) throw InputError("group '" + path + "' nests too deep");
  for (const Link& inner : links_of(object.get(), path))
    descend(object.get(), inner, path + "/" + inner.name, depth + 1, visit);
}

/// A dataset's data must be in the file itself, plainly or in chunks. True if they are filtered.
bool check_layout(hid_t dataset, const std::string& what) {
  const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  if (!creation) throw InputError(what + kDamaged);
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (H5Pget_external_count(creation.get()) != 0 ||
      (layout != H5D_COMPACT && layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED))
    throw InputError(what + " keeps its data in other files: want the data itself");
  return layout == H5D_CHUNKED && H5Pget_nfilters(creation.get()) > 0;
}

Shape shape_of(hid_t dataset, const std::string& what) {
  const Handle space(H5Dget_space(dataset), H5Sclose);
  if (!space) throw InputError(what + kDamaged);
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) throw InputError(what + " has a null dataspace");
  std::array<hsize_t, H5S_MAX_RANK> extents{};
  const int rank = H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  if (rank < 0) throw InputError(what + kDamaged);
  Shape shape;
  std::int64_t most =
      1;  // the element count with empty axes taken as 1, so that no product of a few of them overflows
  for (const hsize_t extent : std::span(extents).first(static_cast<std::size_t>(rank))) {
    if (extent > static_cast<hsize_t>(kMostElements / most))
      throw InputError(what + " claims more than 2^42 elements");
    shape.push_back(static_cast<std::int64_t>(extent));
    most *= std::max<std::int64_t>(shape.back(), 1);
  }
  return shape;
}

void read_elements(hid_t dataset, const std::string& path, hid_t memory_type, hid_t memory, hid_t file,
                   void* out) {
  if (H5Dread(dataset, memory_type, memory, file, H5P_DEFAULT, out) < 0)
    throw InputError(dataset_name(path) + kDamaged);
}

/// The type in which HDF5 hands over elements that are wanted in `dtype`: that itself where it converts
/// without loss or clipping, else one that holds every stored value.
DType transfer_type(DType stored, DType dtype) {
  if (stored == dtype || dtype == DType::int64 || (dtype == DType::float64 && stored == DType::float32))
    return dtype;
  return size_of(stored) == 2 && size_of(dtype) > 2 ? stored : DType::float64;
}

/// The same values in `dtype`. `first` is the place of the first one in its dataset.
Tensor held_in(DType dtype, const Tensor& values, const DatasetInfo& info, std::int64_t first) {
  Tensor held(dtype, values.shape());
  for (std::int64_t i = 0; i < values.size(); ++i) {
    const double v = values[i];
    const bool holds = dtype == DType::boolean ? v == 0.0 || v == 1.0
                       : dtype == DType::uint8 ? v >= 0.0 && v <= 255.0 && v == std::trunc(v)
                                               : std::isnan(v) || round_to(dtype, v) == v;
    if (!holds)
      throw InputError(dataset_name(info.path) + " holds " + to_text(v) + " at element " +
                       std::to_string(first + i) + ", which is no " + std::string(name(dtype)));
    held.set(i, v);
  }
  return held;
}

}  // namespace

void each_block(hid_t dataset, const DatasetInfo& info, DType dtype, const VisitBlock& visit) {
  if (is_floating(dtype) != is_floating(info.stored))
    throw InputError(dataset_name(info.path) + " stores " + std::string(name(info.stored)) +
                     " where its attribute dtype says " + std::string(name(dtype)));
  const DType transferred = transfer_type(info.stored, dtype);
  const Handle memory_type = element_type(transferred);
  Tensor block;
  for_each_block(info.shape, [&](const Block& place) {
    // Nearly all blocks are of one size: memory that was touched once is used again.
    if (block.size() != place.count || block.dtype() != transferred)
      block = Tensor(transferred, {place.count});
    const auto [file, memory] = select(dataset, place);
    read_elements(dataset, info.path, memory_type.get(), memory.get(), file.get(), block.bytes().data());
    if (transferred == dtype)
      visit(place.first, block);
    else if (transferred == info.stored)
      visit(place.first, block.cast(dtype));
    else
      visit(place.first, held_in(dtype, block, info, place.first));
  });
}

Source::Source(const std::filesystem::path& path)
    : file_(open_file(path)), free_bytes_(std::filesystem::file_size(path)) {}

void Source::each_dataset(std::span<const std::string_view> groups, bool strict, const Visit& visit) const {
  for (const Link& link : links_of(file(), "")) {
    if (std::ranges::find(groups, link.name) != groups.end())
      descend(file(), link, link.name, 1, visit);
    else if (strict)
      throw InputError("'" + link.name + "' is no group of schema version " +
                       std::to_string(kGoldenSchemaVersion));
  }
}

DatasetInfo Source::describe(hid_t dataset, const std::string& path) {
  const std::string what = dataset_name(path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  if (!type) throw InputError(what + kDamaged);
  const std::optional<DType> stored = classify(type.get());
  if (!stored) throw InputError(what + " holds no numbers: want floats, integers or booleans");
  const bool filtered = check_layout(dataset, what);

  DatasetInfo info;
  info.path = path;
  info.stored = *stored;
  info.shape = shape_of(dataset, what);
  info.stored_bytes = H5Dget_storage_size(dataset);
  const std::uint64_t claimed =
      static_cast<std::uint64_t>(element_count(info.shape)) * H5Tget_size(type.get());
  if (info.stored_bytes > free_bytes_ ||
      claimed > (filtered ? kBestCompression * info.stored_bytes : info.stored_bytes))
    throw InputError(what + " claims " + std::to_string(claimed) + " bytes and the file stores " +
                     std::to_string(info.stored_bytes) + ": truncated or damaged file");
  free_bytes_ -= info.stored_bytes;
  try {
    if (const auto dtype = read_text(dataset, "dtype")) info.documented = parse_dtype(*dtype);
  } catch (const InputError& error) {
    throw InputError(what + ": " + error.what());
  }
  return info;
}

}  // namespace moeref::hdf5
