#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <new>
#include <stdexcept>

#include "crash_probe.hpp"
#include "golden_check.hpp"
#include "hdf5_io.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using hdf5::Handle;
using nlohmann::json;

constexpr std::array<std::string_view, 7> kGroups{"inputs",  "params", "cotangents", "outputs",
                                                  "grads",   "stages", "bounds"};
constexpr std::array<std::string_view, 3> kResultGroups{"outputs", "grads", "stages"};

constexpr const char* kDamaged = " cannot be read: truncated or damaged file";
constexpr int kDeepestGroup = 4;
/// Elements that a file may claim; keeps every later product inside 64 bits.
constexpr std::int64_t kMostElements = std::int64_t{1} << 42;
/// Deflate cannot do better than 1032 : 1; anything above is a forged size.
constexpr std::uint64_t kBestCompression = 1032;

std::string to_text(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.9g", value);
  return text.data();
}

std::string dataset_name(std::string_view path) { return "dataset '" + std::string(path) + "'"; }

/// Runs `read`, first where it can crash, and puts the file's name before whatever goes wrong in it.
template <typename Read>
auto named(const fs::path& path, Read&& read) {
  const hdf5::Quiet quiet;
  std::string what;
  try {
    if (!survives([&] { read(); })) throw InputError("is a damaged HDF5 file: HDF5 crashes on it");
    return read();
  } catch (const InputError& error) {
    what = error.what();
  } catch (const std::bad_alloc&) {
    what = "does not fit into memory";
  } catch (const std::length_error&) {
    what = "does not fit into memory";
  }
  throw InputError(hdf5::one_line(path.string() + ": " + what));
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

/// Opens the datasets of a file one by one and refuses sizes that the file cannot hold.
class Reader {
 public:
  explicit Reader(const fs::path& path) : file_(hdf5::open_file(path)), free_bytes_(fs::file_size(path)) {}

  hid_t file() const { return file_.get(); }

  /// Visits every dataset below the root's groups of these names. Other names are an error if `strict`.
  template <typename Visit>
  void each_dataset(std::span<const std::string_view> groups, bool strict, Visit&& visit) {
    for (const Link& link : links_of(file(), "")) {
      if (std::ranges::find(groups, link.name) != groups.end())
        descend(file(), link, link.name, 1, visit);
      else if (strict)
        throw InputError("'" + link.name + "' is no group of schema version " + std::to_string(kGoldenSchemaVersion));
    }
  }

  /// What the file says of a dataset, after checks that make it safe to allocate its memory.
  DatasetInfo describe(hid_t dataset, const std::string& path);

 private:
  template <typename Visit>
  void descend(hid_t parent, const Link& link, const std::string& path, int depth, Visit& visit) {
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

  Handle file_;
  std::uint64_t free_bytes_;  ///< of the file, not yet claimed by a dataset
};

DatasetInfo Reader::describe(hid_t dataset, const std::string& path) {
  const std::string what = dataset_name(path);
  const Handle type(H5Dget_type(dataset), H5Tclose);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  if (!type || !space || !creation) throw InputError(what + kDamaged);

  DatasetInfo info;
  info.path = path;
  const std::optional<DType> stored = hdf5::classify(type.get());
  if (!stored) throw InputError(what + " holds no numbers: want floats, integers or booleans");
  info.stored = *stored;
  const H5D_layout_t layout = H5Pget_layout(creation.get());
  if (H5Pget_external_count(creation.get()) != 0 ||
      (layout != H5D_COMPACT && layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED))
    throw InputError(what + " keeps its data in other files: want the data itself");

  std::array<hsize_t, H5S_MAX_RANK> extents{};
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) throw InputError(what + " has a null dataspace");
  const int rank = H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  if (rank < 0) throw InputError(what + kDamaged);
  std::int64_t most = 1;  // the element count with empty axes taken as 1, so that no product of a few of them overflows
  for (const hsize_t extent : std::span(extents).first(static_cast<std::size_t>(rank))) {
    if (extent > static_cast<hsize_t>(kMostElements / most))
      throw InputError(what + " claims more than 2^42 elements");
    info.shape.push_back(static_cast<std::int64_t>(extent));
    most *= std::max<std::int64_t>(info.shape.back(), 1);
  }

  info.stored_bytes = H5Dget_storage_size(dataset);
  const std::uint64_t claimed = static_cast<std::uint64_t>(element_count(info.shape)) * H5Tget_size(type.get());
  const bool filtered = layout == H5D_CHUNKED && H5Pget_nfilters(creation.get()) > 0;
  // Compact data lie in the dataset's header, not among the file's raw data, but inside the file all the same.
  if (info.stored_bytes > free_bytes_ ||
      claimed > (filtered ? kBestCompression * info.stored_bytes : info.stored_bytes))
    throw InputError(what + " claims " + std::to_string(claimed) + " bytes and the file stores " +
                     std::to_string(info.stored_bytes) + ": truncated or damaged file");
  free_bytes_ -= info.stored_bytes;
  try {
    if (const auto dtype = hdf5::read_text(dataset, "dtype")) info.documented = parse_dtype(*dtype);
  } catch (const InputError& error) {
    throw InputError(what + ": " + error.what());
  }
  return info;
}

/// Plain data that lie in the file as they are.
bool is_contiguous(hid_t dataset) {
  const Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  return H5Pget_layout(creation.get()) == H5D_CONTIGUOUS;
}

void read_elements(hid_t dataset, const std::string& path, hid_t memory_type, hid_t memory, hid_t file, void* out) {
  if (in_crash_probe() && is_contiguous(dataset)) return;  // cannot crash, and may be gigabytes
  if (H5Dread(dataset, memory_type, memory, file, H5P_DEFAULT, out) < 0)
    throw InputError(dataset_name(path) + kDamaged);
}

/// All elements in `dtype`, which the file's own type converts to without loss or clipping.
Tensor read_directly(hid_t dataset, const DatasetInfo& info, DType dtype) {
  Tensor tensor(dtype, info.shape);
  if (tensor.size() > 0)
    read_elements(dataset, info.path, hdf5::element_type(dtype).get(), H5S_ALL, H5S_ALL, tensor.bytes().data());
  return tensor;
}

/// All elements in `dtype`; throws InputError naming one that it cannot hold.
Tensor read_exactly(hid_t dataset, const DatasetInfo& info, DType dtype) {
  if (is_floating(dtype) != is_floating(info.stored))
    throw InputError(dataset_name(info.path) + " stores " + std::string(name(info.stored)) +
                     " where its attribute dtype says " + std::string(name(dtype)));
  if (info.stored == dtype) return read_directly(dataset, info, dtype);
  if (dtype == DType::int64 || (dtype == DType::float64 && info.stored == DType::float32))
    return read_directly(dataset, info, dtype);
  if (size_of(info.stored) == 2 && size_of(dtype) > 2) return read_directly(dataset, info, info.stored).cast(dtype);

  Tensor tensor(dtype, info.shape);
  std::vector<double> values;
  hdf5::for_each_block(info.shape, [&](const hdf5::Block& block) {
    values.resize(static_cast<std::size_t>(block.count));
    const auto [file, memory] = hdf5::select(dataset, block);
    read_elements(dataset, info.path, H5T_NATIVE_DOUBLE, memory.get(), file.get(), values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double v = values[i];
      const bool held = dtype == DType::boolean ? v == 0.0 || v == 1.0 : std::isnan(v) || round_to(dtype, v) == v;
      const std::int64_t at = block.first + static_cast<std::int64_t>(i);
      if (!held)
        throw InputError(dataset_name(info.path) + " holds " + to_text(v) + " at element " + std::to_string(at) +
                         ", which is no " + std::string(name(dtype)));
      tensor.set(at, v);
    }
  });
  return tensor;
}

/// As wide as stored, but a documented bool is one.
Tensor read_as_stored(hid_t dataset, const DatasetInfo& info) {
  return read_exactly(dataset, info, info.documented == DType::boolean ? DType::boolean : info.stored);
}

std::string required_text(hid_t file, const char* attribute) {
  if (auto text = hdf5::read_text(file, attribute)) return *std::move(text);
  throw InputError("missing attribute '" + std::string(attribute) + "'");
}

json required_object(hid_t file, const char* attribute) {
  json object = parse_json(attribute, required_text(file, attribute));
  if (!object.is_object()) throw InputError("attribute '" + std::string(attribute) + "' is not a JSON object");
  return object;
}

/// The root attributes, shared by both ways of reading.
void read_attributes(hid_t file, GoldenAbout& about, Component& component, json& config, json& options) {
  const auto version = hdf5::read_integer(file, "schema_version");
  if (!version) throw InputError("missing attribute 'schema_version'");
  if (*version != kGoldenSchemaVersion)
    throw InputError("unknown schema_version " + std::to_string(*version) + ": want " +
                     std::to_string(kGoldenSchemaVersion));
  component = parse_component(required_text(file, "component"));
  about.case_name = required_text(file, "case");
  config = required_object(file, "config");
  options = required_object(file, "call");
  about.producer = required_text(file, "producer");
  if (const auto text = hdf5::read_text(file, "flags")) {
    const json flags = parse_json("flags", *text);
    if (!flags.is_array() || !std::ranges::all_of(flags, [](const json& flag) { return flag.is_string(); }))
      throw InputError("attribute 'flags' is not a JSON list of texts");
    about.flags = flags.get<std::vector<std::string>>();
  }
  about.recipe = hdf5::read_text(file, "recipe").value_or("");
  about.allow_nonfinite = hdf5::read_integer(file, "allow_nonfinite").value_or(0) != 0;
  check_about(about);
}

void read_dataset(hid_t dataset, const DatasetInfo& info, GoldenFile& golden) {
  if (!info.documented) throw InputError(dataset_name(info.path) + ": missing attribute 'dtype'");
  constexpr std::string_view kBounds = "bounds/";
  if (is_result(info.path)) {
    golden.results[info.path] = read_as_stored(dataset, info);
    if (is_floating(*info.documented) != is_floating(info.stored))
      throw InputError(dataset_name(info.path) + " stores " + std::string(name(info.stored)) +
                       " where its attribute dtype says " + std::string(name(*info.documented)));
    golden.result_dtypes[info.path] = *info.documented;
  } else if (info.path.starts_with(kBounds)) {
    Tensor bound = read_exactly(dataset, info, is_floating(info.stored) ? info.stored : DType::float64);
    std::vector<double> block;  // not all doubles at once: bounds may be gigabytes
    for (std::int64_t first = 0; first < bound.size(); first += hdf5::kBlockElements) {
      block.resize(static_cast<std::size_t>(std::min(hdf5::kBlockElements, bound.size() - first)));
      bound.read(first, block);
      check_bounds(info.path, block, first);
    }
    golden.bounds[info.path.substr(kBounds.size())] = std::move(bound);
  } else {
    golden.call.tensors[info.path] = read_exactly(dataset, info, *info.documented);
  }
}

void check(const GoldenFile& golden) {
  check_call(golden.call, golden.allow_nonfinite);
  std::vector<ResultSpec> results;
  for (const auto& [name, tensor] : golden.results) results.push_back({name, tensor.dtype(), tensor.shape()});
  check_results(golden.call, results);
  for (const auto& [name, bound] : golden.bounds) {
    const Tensor* result = find(golden.results, name);
    if (!result) throw InputError(dataset_name("bounds/" + name) + " bounds a dataset that the file lacks");
    if (bound.shape() != result->shape())
      throw InputError(dataset_name("bounds/" + name) + " has shape " + to_string(bound.shape()) + ": want " +
                       to_string(result->shape()));
  }
}

}  // namespace

GoldenFile read_golden(const fs::path& path) {
  return named(path, [&] {
    Reader reader(path);
    GoldenFile golden;
    read_attributes(reader.file(), golden, golden.call.component, golden.call.config, golden.call.options);
    reader.each_dataset(kGroups, true, [&](const std::string& name, hid_t dataset) {
      if (name.starts_with("grads/")) golden.call.backward = true;
      read_dataset(dataset, reader.describe(dataset, name), golden);
    });
    check(golden);
    return golden;
  });
}

GoldenHeader read_golden_header(const fs::path& path) {
  return named(path, [&] {
    Reader reader(path);
    GoldenHeader header;
    read_attributes(reader.file(), header, header.component, header.config, header.options);
    reader.each_dataset(kGroups, true, [&](const std::string& name, hid_t dataset) {
      header.datasets.push_back(reader.describe(dataset, name));
    });
    return header;
  });
}

NamedTensors read_results(const fs::path& path) {
  return named(path, [&] {
    Reader reader(path);
    NamedTensors results;
    reader.each_dataset(kResultGroups, false, [&](const std::string& name, hid_t dataset) {
      results[name] = read_as_stored(dataset, reader.describe(dataset, name));
    });
    if (results.empty()) throw InputError("holds no dataset in the groups outputs, grads and stages");
    return results;
  });
}

}  // namespace moeref
