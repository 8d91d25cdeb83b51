#include "moeref/golden_file.hpp"

#include <algorithm>
#include <cstdio>
#include <set>

#include "moeref/error.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> different_text(const char* attribute, const std::string& a, const std::string& b) {
  if (a == b) return std::nullopt;
  const auto at = std::ranges::mismatch(a, b).in1 - a.begin();
  return "attribute '" + std::string(attribute) + "' differs at character " + std::to_string(at);
}

std::string describe(const Tensor& tensor) {
  return std::string(name(tensor.dtype())) + " " + to_string(tensor.shape());
}

std::string first_difference_in(const std::string& dataset, const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape())
    return dataset + " is " + describe(a) + " and " + describe(b);
  const auto at = (std::ranges::mismatch(a.bytes(), b.bytes()).in1 - a.bytes().begin()) / size_of(a.dtype());
  std::array<char, 80> values{};
  std::snprintf(values.data(), values.size(), "%.17g and %.17g", a[at], b[at]);
  return dataset + " differs at element " + std::to_string(at) + ": " + values.data();
}

std::optional<std::string> different_tensors(const std::string& group, const NamedTensors& a,
                                             const NamedTensors& b) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : a) names.insert(name);
  for (const auto& [name, tensor] : b) names.insert(name);
  for (const std::string& name : names) {
    const std::string dataset = "dataset '" + group + name + "'";
    const Tensor* in_a = find(a, name);
    const Tensor* in_b = find(b, name);
    if (!in_a || !in_b) return dataset + " is only in the " + (in_a ? "first" : "second");
    if (*in_a != *in_b) return first_difference_in(dataset, *in_a, *in_b);
  }
  return std::nullopt;
}

}  // namespace

bool made_by_moeref(std::string_view producer) {
  return producer == "moeref" || producer.starts_with("moeref ");
}

std::optional<std::string> first_difference(const GoldenFile& a, const GoldenFile& b) {
  const auto text = [](const nlohmann::json& json) { return json.dump(); };
  if (auto d = different_text("component", std::string(name(a.call.component)),
                              std::string(name(b.call.component))))
    return d;
  if (auto d = different_text("case", a.case_name, b.case_name)) return d;
  if (auto d = different_text("config", text(a.call.config), text(b.call.config))) return d;
  if (auto d = different_text("call", text(a.call.options), text(b.call.options))) return d;
  if (auto d = different_text("producer", a.producer, b.producer)) return d;
  if (auto d = different_text("flags", text(a.flags), text(b.flags))) return d;
  if (auto d = different_text("recipe", a.recipe, b.recipe)) return d;
  if (a.allow_nonfinite != b.allow_nonfinite) return "attribute 'allow_nonfinite' differs";
  if (auto d = different_tensors("", a.call.tensors, b.call.tensors)) return d;
  if (auto d = different_tensors("", a.results, b.results)) return d;
  if (auto d = different_tensors("bounds/", a.bounds, b.bounds)) return d;
  for (const auto& [name, dtype] : a.result_dtypes)
    if (const auto it = b.result_dtypes.find(name); it == b.result_dtypes.end() || it->second != dtype)
      return "dataset '" + name + "' differs in its attribute dtype";
  return std::nullopt;
}

std::vector<fs::path> list_golden_files(std::span<const fs::path> paths) {
  if (paths.empty()) throw InputError("no golden file or folder was given");
  std::vector<fs::path> files;
  for (const fs::path& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (status.type() == fs::file_type::not_found)
      throw InputError(path.string() + ": no such file or folder");
    if (status.type() != fs::file_type::directory) {
      files.push_back(path);
      continue;
    }
    const std::size_t before = files.size();
    fs::recursive_directory_iterator it(path, error), end;
    for (; !error && it != end; it.increment(error))
      if ((it->path().extension() == ".h5" || it->path().string().ends_with(".drawn.json")) &&
          it->is_regular_file())
        files.push_back(it->path());
    if (error) throw InputError(path.string() + ": cannot list this folder: " + error.message());
    if (files.size() == before) throw InputError(path.string() + ": this folder holds no .h5 file");
  }
  std::ranges::sort(files);
  const auto repeated = std::ranges::unique(files);
  files.erase(repeated.begin(), repeated.end());
  return files;
}

}  // namespace moeref
