#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <type_traits>

#include "golden/format/child_process.hpp"
#include "golden/format/hdf5_io.hpp"
#include "golden/format/schema_rules.hpp"
#include "golden/format/temporary_file.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using hdf5::Handle;
using nlohmann::json;

/// Datasets of these sizes are compressed, each in one chunk: below, a chunk's bookkeeping costs more than it
/// saves; above, files are not committed and the time counts.
constexpr std::int64_t kCompressAbove = 4096;
constexpr std::int64_t kCompressUpTo = std::int64_t{1} << 22;
constexpr unsigned kDeflateLevel = 6;
static_assert(kCompressUpTo <= hdf5::kBlockElements,
              "a chunk must be written in one piece or it is compressed twice");

/// More links and attributes than this are indexed in trees, which take more room than a case's few datasets.
constexpr unsigned kMostCompact = 64;

/// Fills doubles with elements from `first` on.
using Fill = std::function<void(std::int64_t first, std::span<double> out)>;

/// Elements that a thread writes at a time.
constexpr std::int64_t kPiece = 1 << 16;

/// A result wherever it lives.
struct ResultView {
  ResultSpec spec;
  std::optional<DType> documented;
  Fill values;
  Fill bounds;                  ///< empty where there are none
  const Tensor* raw = nullptr;  ///< written as it is, if it need not be narrowed
};

[[noreturn]] void fail_to_write(const std::string& path) {
  throw InputError("dataset '" + path + "' cannot be written: is the disk full?");
}

/// No time stamps, so that the same content is the same bytes.
Handle properties(hid_t kind) {
  Handle list(H5Pcreate(kind), H5Pclose);
  H5Pset_obj_track_times(list.get(), false);
  H5Pset_attr_phase_change(list.get(), kMostCompact, kMostCompact / 2);
  if (kind != H5P_DATASET_CREATE) H5Pset_link_phase_change(list.get(), kMostCompact, kMostCompact / 2);
  return list;
}

class Writer {
 public:
  explicit Writer(const fs::path& path) {
    const Handle creation = properties(H5P_FILE_CREATE);
    const Handle access = hdf5::file_access();
    file_ = Handle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
    if (!file_) throw InputError("cannot create an HDF5 file here");
  }

  hid_t file() const { return file_.get(); }

  void group(const std::string& path) {
    if (!groups_.insert(path).second) return;
    const Handle creation = properties(H5P_GROUP_CREATE);
    const Handle made(H5Gcreate2(file(), path.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Gclose);
    if (!made) fail_to_write(path);
  }

  void tensor(const std::string& path, const Tensor& tensor, DType documented) {
    const Handle dataset = create(path, tensor.dtype(), tensor.shape(), documented);
    if (tensor.size() > 0 && H5Dwrite(dataset.get(), hdf5::element_type(tensor.dtype()).get(), H5S_ALL,
                                      H5S_ALL, H5P_DEFAULT, tensor.bytes().data()) < 0)
      fail_to_write(path);
  }

  /// Elements from `fill`, block by block: never a second copy of a large result. `fill` is called from
  /// several threads.
  void blocks(const std::string& path, DType stored, const Shape& shape, DType documented, const Fill& fill) {
    const Handle dataset = create(path, stored, shape, documented);
    std::vector<double> values;
    std::vector<float> narrow;
    hdf5::for_each_block(shape, [&](const hdf5::Block& block) {
      const auto count = static_cast<std::size_t>(block.count);
      // HDF5 converts what is not float; float, which large results are stored in, is rounded here by all
      // threads.
      const bool converted = stored == DType::float32;
      converted ? narrow.resize(count) : values.resize(count);
      parallel_pieces(block.count, kPiece, [&](std::int64_t first, std::int64_t size) {
        const auto at = static_cast<std::size_t>(first), n = static_cast<std::size_t>(size);
        if (!converted) return fill(block.first + first, std::span(values).subspan(at, n));
        std::vector<double> piece(n);
        fill(block.first + first, piece);
        std::ranges::transform(piece, narrow.begin() + first, [](double v) { return static_cast<float>(v); });
      });
      const auto [in_file, in_memory] = hdf5::select(dataset.get(), block);
      const void* data = converted ? static_cast<const void*>(narrow.data()) : values.data();
      if (H5Dwrite(dataset.get(), converted ? H5T_NATIVE_FLOAT : H5T_NATIVE_DOUBLE, in_memory.get(),
                   in_file.get(), H5P_DEFAULT, data) < 0)
        fail_to_write(path);
    });
  }

  void close() {
    if (H5Fflush(file(), H5F_SCOPE_LOCAL) < 0 || !file_.reset())
      throw InputError("cannot be written: is the disk full?");
  }

 private:
  Handle create(const std::string& path, DType stored, const Shape& shape, DType documented) {
    for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
      group(path.substr(0, slash));
    const std::vector<hsize_t> extents(shape.begin(), shape.end());
    const Handle space(shape.empty()
                           ? H5Screate(H5S_SCALAR)
                           : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                       H5Sclose);
    const Handle creation = properties(H5P_DATASET_CREATE);
    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
    const std::int64_t bytes = element_count(shape) * size_of(stored);
    if (!shape.empty() && bytes > kCompressAbove && bytes <= kCompressUpTo) {
      // Both filters are optional to HDF5: a chunk that does not shrink is stored as it is.
      H5Pset_chunk(creation.get(), static_cast<int>(extents.size()), extents.data());
      if (size_of(stored) > 1) H5Pset_shuffle(creation.get());
      H5Pset_deflate(creation.get(), kDeflateLevel);
    }
    Handle dataset(H5Dcreate2(file(), path.c_str(), hdf5::element_type(stored).get(), space.get(),
                              H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                   H5Dclose);
    if (!dataset) fail_to_write(path);
    hdf5::write_text(dataset.get(), "dtype", std::string(name(documented)));
    return dataset;
  }

  Handle file_;
  std::set<std::string> groups_;
};

DType case_dtype(const Call& call) {
  return call.component == Component::mlp ? parse_mlp_config(call.config).dtype
                                          : parse_moe_config(call.config).dtype;
}

/// The bound of a value that is stored in float32: what the rounding moves comes on top.
double widened(double bound, double value) {
  const double moved = std::abs(value - static_cast<double>(static_cast<float>(value)));
  return (bound + moved) * (moved > 0.0 ? 1.0 + 0x1p-52 : 1.0);  // the sum's own rounding included
}

void write_result(Writer& writer, const ResultView& result, bool narrow) {
  const std::string& path = result.spec.name;
  const Shape& shape = result.spec.shape;
  const bool narrowed = narrow && result.spec.held == DType::float64 && *result.documented != DType::float64;
  if (result.raw && !narrowed)
    writer.tensor(path, *result.raw, *result.documented);
  else
    writer.blocks(path, narrowed ? DType::float32 : result.spec.held, shape, *result.documented,
                  result.values);
  if (!result.bounds) return;
  writer.blocks("bounds/" + path, DType::float32, shape, DType::float32,
                [&](std::int64_t first, std::span<double> out) {
                  result.bounds(first, out);
                  check_bounds("bounds/" + path, out, first);
                  if (narrowed) {
                    std::vector<double> values(out.size());
                    result.values(first, values);
                    for (std::size_t i = 0; i < out.size(); ++i) out[i] = widened(out[i], values[i]);
                  }
                  for (double& bound : out) bound = round_up(bound);
                });
}

void write_attributes(hid_t file, const GoldenFile& golden) {
  const Call& call = golden.call;
  hdf5::write_integer(file, "schema_version", kGoldenSchemaVersion);
  hdf5::write_text(file, "component", std::string(name(call.component)));
  hdf5::write_text(file, "case", golden.case_name);
  hdf5::write_text(file, "config", call.config.dump());
  hdf5::write_text(file, "call", call.options.dump());
  hdf5::write_text(file, "producer", golden.producer);
  hdf5::write_text(file, "flags", json(golden.flags).dump());
  if (!golden.recipe.empty()) hdf5::write_text(file, "recipe", golden.recipe);
  if (golden.allow_nonfinite) hdf5::write_integer(file, "allow_nonfinite", 1);
}

/// What the documented system has where the caller did not say: the signature's dtype, for stages their own.
void complete(std::vector<ResultView>& results, const Call& call) {
  for (const TensorSpec& spec : signature(call).outputs)
    for (ResultView& result : results)
      if (!result.documented && result.spec.name == spec.name) result.documented = spec.dtype;
  for (ResultView& result : results)
    if (!result.documented) result.documented = result.spec.held;
}

void check(const Call& call, const std::vector<ResultView>& results) {
  std::vector<ResultSpec> specs;
  for (const ResultView& result : results) {
    if (!is_result(result.spec.name))
      throw InputError("dataset '" + result.spec.name +
                       "' is in none of the groups outputs, grads and stages");
    specs.push_back(result.spec);
  }
  check_results(call, specs);
}

void write_file(const fs::path& path, const GoldenFile& golden, const std::vector<ResultView>& results) {
  Writer writer(path);
  write_attributes(writer.file(), golden);
  for (const char* group : {"inputs", "params", "cotangents", "outputs", "grads"}) writer.group(group);
  for (const auto& [name, tensor] : golden.call.tensors) writer.tensor(name, tensor, tensor.dtype());
  const bool narrow = case_dtype(golden.call) != DType::float64;
  for (const ResultView& result : results) write_result(writer, result, narrow);
  writer.close();
}

std::vector<ResultView> views_of(const GoldenFile& file) {
  std::vector<ResultView> results;
  for (const auto& [name, tensor] : file.results) {
    ResultView& view = results.emplace_back();
    view.spec = {name, tensor.dtype(), tensor.shape()};
    if (const auto it = file.result_dtypes.find(name); it != file.result_dtypes.end())
      view.documented = it->second;
    view.raw = &tensor;
    view.values = [values = &tensor](std::int64_t first, std::span<double> out) { values->read(first, out); };
    const Tensor* bound = find(file.bounds, name);
    if (!bound) continue;
    if (bound->shape() != tensor.shape())
      throw InputError("dataset 'bounds/" + name + "' has shape " + to_string(bound->shape()) + ": want " +
                       to_string(tensor.shape()));
    view.bounds = [bound](std::int64_t first, std::span<double> out) { bound->read(first, out); };
  }
  for (const auto& [name, bound] : file.bounds)
    if (!file.results.contains(name))
      throw InputError("dataset 'bounds/" + name + "' bounds a dataset that is not there");
  return results;
}

std::vector<ResultView> views_of(const Evaluation& evaluation) {
  std::vector<ResultView> results;
  const auto from = [](const auto& all) {
    return [&all](std::int64_t first, std::span<double> out) {
      std::copy_n(all.begin() + first, out.size(), out.begin());
    };
  };
  for (const auto& [name, result] : evaluation.results) {
    ResultView& view = results.emplace_back();
    view.spec = {name, is_floating(result.dtype) ? DType::float64 : result.dtype, result.shape};
    view.documented = result.dtype;
    view.values = from(result.value);
    view.bounds = from(result.bound);
  }
  return results;
}

/// A file that asks for results and has none.
struct CallAlone {};
std::vector<ResultView> views_of(CallAlone) { return {}; }

/// `source` is anything with views: its results, in the place they live in.
template <typename Source>
void write(const fs::path& path, const GoldenFile& golden, const Source& source) {
  H5open();  // started here once, HDF5 need not start in every child
  std::string what;
  try {
    std::vector<ResultView> results = views_of(source);
    check_about(golden);
    check_call(golden.call, golden.allow_nonfinite);
    if constexpr (!std::is_same_v<Source, CallAlone>) check(golden.call, results);
    complete(results, golden.call);
    TemporaryFile temporary(path);
    // After a write that failed HDF5 1.10 crashes when the program ends. In a child this does no harm, and
    // the tensors are not copied for it.
    in_child(
        kNoCpuLimit, "cannot be written: HDF5 crashed",
        [&](Sender&) {
          const hdf5::Quiet quiet;
          write_file(temporary.path(), golden, results);
        },
        [](Receiver& receiver) { receiver.next(); });
    temporary.commit();
    return;
  } catch (const InputError& error) {
    what = error.what();
  }
  throw InputError(hdf5::one_line(path.string() + ": " + what));
}

}  // namespace

void write_golden(const fs::path& path, const GoldenFile& file) { write(path, file, file); }

void write_golden(const fs::path& path, const GoldenFile& file, const Evaluation& evaluation) {
  write(path, file, evaluation);
}

void write_call(const fs::path& path, const GoldenFile& file) { write(path, file, CallAlone{}); }

}  // namespace moeref
