// Golden files: one call of one component with its results, in HDF5 (schema version 1).
//
// Root attributes: schema_version, component, case, config, call, producer, and in our own files flags,
// recipe and allow_nonfinite. Groups: inputs, params, cotangents, outputs, grads, stages, and bounds/... with
// the error bound of each result. Every dataset has the attribute dtype. golden/README.md has the whole
// schema.
//
// Every function throws InputError with one line that begins with the file's path. Files are read in a child
// process (fork), because HDF5 crashes on damaged ones. HDF5 is not thread-safe: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"
#include "moeref/reference.hpp"

namespace moeref {

inline constexpr std::int64_t kGoldenSchemaVersion = 1;

/// What a golden file says about itself beside tensors.
struct GoldenAbout {
  std::string case_name;           ///< the file's own name is <component>__<case_name>.h5
  std::string producer;            ///< the program that computed the results, with its version
  std::vector<std::string> flags;  ///< the named bugs that the case catches
  std::string recipe;              ///< JSON text that regenerates the file; empty in foreign files
  bool allow_nonfinite = false;    ///< NaN and infinities may stand in inputs, params and cotangents
};

struct GoldenFile : GoldenAbout {
  /// `backward` is not stored: a file with a dataset in `grads` is one of a call with backward, as is one
  /// without results that has cotangents.
  Call call;
  /// "outputs/...", "grads/...", "stages/...", as wide as they are stored; none in a file of a call alone.
  NamedTensors results;
  /// What the documented system has there, by the names of `results`. Outputs and gradients that are not
  /// named here are written with the dtype of the call's signature, stages with their own.
  std::map<std::string, DType, std::less<>> result_dtypes;
  /// The error bound of each element, by the names of `results`: "outputs/y" stands in the file as
  /// "bounds/outputs/y".
  NamedTensors bounds;
};

/// One dataset as the file describes it; nothing of its data has been read.
struct DatasetInfo {
  std::string path;                 ///< "inputs/x", "bounds/outputs/y"
  DType stored = DType::float32;    ///< the file's own type; int64 stands for every integer type
  std::optional<DType> documented;  ///< the attribute dtype
  Shape shape;
  std::uint64_t stored_bytes = 0;  ///< in the file, compressed where it is
};

struct GoldenHeader : GoldenAbout {
  Component component = Component::gate;
  nlohmann::json config;
  nlohmann::json options;
  std::vector<DatasetInfo> datasets;  ///< in the order of their paths
};

/// Bounds are most of a large file; a reader that computes its own does not need them.
enum class BoundValues { kept, only_checked };

/// Reads and checks everything: the call against its signature (check_inputs), results against theirs, bounds
/// against results. The call's tensors come in the dtype of their attribute, whatever the storage; a value
/// that this dtype cannot hold is an error, as are NaN and infinities in the call (unless allow_nonfinite)
/// and negative or NaN bounds.
GoldenFile read_golden(const std::filesystem::path& path, BoundValues bound_values = BoundValues::kept);

/// Attributes and the list of datasets alone, for listings. The config is JSON but not yet checked.
GoldenHeader read_golden_header(const std::filesystem::path& path);

/// The groups outputs, grads and stages of a file that a port wrote. Floats and integers of any width; no
/// attribute is needed. Throws if it holds none.
NamedTensors read_results(const std::filesystem::path& path);

/// Writes under a temporary name in the same folder, then renames: `path` is never half written. The same
/// content gives the same bytes (with one version of HDF5 and zlib). But for float64 cases, float64
/// results that are not documented to be float64 are stored in float32 and their bounds widened by what that
/// rounds off; bounds are stored in float32, rounded up.
void write_golden(const std::filesystem::path& path, const GoldenFile& file);

/// The same with the results, dtypes and bounds of an evaluation in place of the file's own, not copied.
void write_golden(const std::filesystem::path& path, const GoldenFile& file, const Evaluation& evaluation);

/// The call alone, without results: what a port is asked with.
void write_call(const std::filesystem::path& path, const GoldenFile& file);

/// Whether a producer text is that of moeref itself, whose recorded values must be the reference's own bits.
bool made_by_moeref(std::string_view producer);

/// The first thing in which two files differ, in words ("dataset 'outputs/y' differs at element 3: 1.5
/// and 1.25"), or nothing when their content is the same, bit for bit.
std::optional<std::string> first_difference(const GoldenFile& a, const GoldenFile& b);

/// Files as they are given, folders searched recursively for *.h5; sorted, each once. Throws for a path that
/// does not exist, for a folder without such a file, and for an empty list.
std::vector<std::filesystem::path> list_golden_files(std::span<const std::filesystem::path> paths);

}  // namespace moeref
