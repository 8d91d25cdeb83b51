// HDF5 reads in a child process and sends what it finds; what a golden file may say is checked here, on plain
// data.
#include <algorithm>
#include <array>
#include <new>
#include <stdexcept>

#include "golden/format/child_process.hpp"
#include "golden/format/hdf5_source.hpp"
#include "golden/format/schema_rules.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::array<std::string_view, 7> kGroups{"inputs", "params", "cotangents", "outputs",
                                                  "grads",  "stages", "bounds"};
constexpr std::array<std::string_view, 3> kResultGroups{"outputs", "grads", "stages"};
constexpr std::string_view kBounds = "bounds/";

enum class Content : std::uint8_t { golden, golden_without_bounds, header, results };

bool is_golden(Content content) {
  return content == Content::golden || content == Content::golden_without_bounds;
}

using NamedShapes = std::map<std::string, Shape, std::less<>>;

std::string dataset_name(std::string_view path) { return "dataset '" + std::string(path) + "'"; }

// ---- in the child ----

std::string required_text(hid_t file, const char* attribute) {
  if (auto text = hdf5::read_text(file, attribute)) return *std::move(text);
  throw InputError("missing attribute '" + std::string(attribute) + "'");
}

void send_attributes(hid_t file, Sender& sender) {
  const auto version = hdf5::read_integer(file, "schema_version");
  if (!version) throw InputError("missing attribute 'schema_version'");
  if (*version != kGoldenSchemaVersion)
    throw InputError("unknown schema_version " + std::to_string(*version) + ": want " +
                     std::to_string(kGoldenSchemaVersion));
  std::vector<std::string> texts;
  for (const char* attribute : {"component", "case", "config", "call", "producer"})
    texts.push_back(required_text(file, attribute));
  texts.push_back(hdf5::read_text(file, "flags").value_or("[]"));
  texts.push_back(hdf5::read_text(file, "recipe").value_or(""));
  const std::int64_t allow_nonfinite = hdf5::read_integer(file, "allow_nonfinite").value_or(0);
  sender.item();  // whole items only: an error comes in place of one
  for (const std::string& text : texts) sender.text(text);
  sender.number(allow_nonfinite);
}

/// The dtype in which a dataset is read: the call's as documented, results and bounds as wide as they are
/// stored.
DType dtype_to_read(const DatasetInfo& info) {
  if (!is_result(info.path) && !info.path.starts_with(kBounds) && info.documented) return *info.documented;
  return info.documented == DType::boolean ? DType::boolean : info.stored;
}

bool is_bound(const DatasetInfo& info) { return info.path.starts_with(kBounds); }

void send_dataset(hid_t dataset, const DatasetInfo& info, Content content, Sender& sender) {
  if (is_golden(content)) {
    if (!info.documented) throw InputError(dataset_name(info.path) + ": missing attribute 'dtype'");
    if (is_floating(*info.documented) != is_floating(info.stored))
      throw InputError(dataset_name(info.path) + " stores " + std::string(name(info.stored)) +
                       " where its attribute dtype says " + std::string(name(*info.documented)));
  }
  const DType dtype = content == Content::header ? info.stored : dtype_to_read(info);
  sender.item();
  sender.text(info.path);
  sender.number(static_cast<std::int64_t>(dtype));
  sender.number(info.documented ? static_cast<std::int64_t>(*info.documented) : -1);
  sender.number(static_cast<std::int64_t>(info.shape.size()));
  for (const std::int64_t extent : info.shape) sender.number(extent);
  sender.number(static_cast<std::int64_t>(info.stored_bytes));
  if (content == Content::header) return;
  const bool checked = is_golden(content) && is_bound(info);
  const bool sent = content != Content::golden_without_bounds || !is_bound(info);
  std::vector<double> values;
  hdf5::each_block(dataset, info, dtype, [&](std::int64_t first, const Tensor& block) {
    if (checked) {
      values.resize(static_cast<std::size_t>(block.size()));
      block.read(0, values);
      check_bounds(info.path, values, first);
    }
    if (!sent) return;
    sender.item();  // each block is one, so that an error can come in place of any
    sender.bytes(block.bytes());
  });
}

void send_file(const fs::path& path, Content content, Sender& sender) {
  const hdf5::Quiet quiet;
  hdf5::Source source(path);
  const bool all = content != Content::results;
  if (all) send_attributes(source.file(), sender);
  source.each_dataset(all ? std::span<const std::string_view>(kGroups) : kResultGroups, all,
                      [&](const std::string& name, hid_t dataset) {
                        send_dataset(dataset, source.describe(dataset, name), content, sender);
                      });
}

// ---- here ----

json parse_object(const char* attribute, const std::string& text) {
  json object = parse_json(attribute, text);
  if (!object.is_object())
    throw InputError("attribute '" + std::string(attribute) + "' is not a JSON object");
  return object;
}

void receive_attributes(Receiver& receiver, GoldenAbout& about, Component& component, json& config,
                        json& options) {
  receiver.next();
  component = parse_component(receiver.text());
  about.case_name = receiver.text();
  config = parse_object("config", receiver.text());
  options = parse_object("call", receiver.text());
  about.producer = receiver.text();
  const json flags = parse_json("flags", receiver.text());
  if (!flags.is_array() || !std::ranges::all_of(flags, [](const json& flag) { return flag.is_string(); }))
    throw InputError("attribute 'flags' is not a JSON list of texts");
  about.flags = flags.get<std::vector<std::string>>();
  about.recipe = receiver.text();
  about.allow_nonfinite = receiver.number() != 0;
  check_about(about);
}

DatasetInfo receive_info(Receiver& receiver) {
  DatasetInfo info;
  info.path = receiver.text();
  info.stored = static_cast<DType>(receiver.number());
  if (const std::int64_t documented = receiver.number(); documented >= 0)
    info.documented = static_cast<DType>(documented);
  info.shape.resize(static_cast<std::size_t>(receiver.number()));
  for (std::int64_t& extent : info.shape) extent = receiver.number();
  info.stored_bytes = static_cast<std::uint64_t>(receiver.number());
  return info;
}

Tensor receive_data(Receiver& receiver, const DatasetInfo& info) {
  Tensor tensor(info.stored, info.shape);
  std::span<std::byte> rest = tensor.bytes();
  hdf5::for_each_block(info.shape, [&](const hdf5::Block& block) {
    if (!receiver.next()) throw InputError(dataset_name(info.path) + " could not be read to its end");
    const std::size_t size = static_cast<std::size_t>(block.count) * size_of(info.stored);
    receiver.bytes(rest.first(size));
    rest = rest.subspan(size);
  });
  return tensor;
}

/// Of a bound the shape is kept, and its values where they are wanted.
void receive_dataset(Receiver& receiver, Content content, GoldenFile& golden, NamedShapes& bound_shapes) {
  const DatasetInfo info = receive_info(receiver);
  if (is_bound(info)) {
    const std::string result = info.path.substr(kBounds.size());
    bound_shapes[result] = info.shape;
    if (content == Content::golden) golden.bounds[result] = receive_data(receiver, info);
  } else if (is_result(info.path)) {
    golden.result_dtypes[info.path] = info.documented.value();
    golden.results[info.path] = receive_data(receiver, info);
  } else {
    golden.call.tensors[info.path] = receive_data(receiver, info);
  }
}

void check(const GoldenFile& golden, const NamedShapes& bound_shapes) {
  check_call(golden.call, golden.allow_nonfinite);
  std::vector<ResultSpec> results;
  for (const auto& [name, tensor] : golden.results) results.push_back({name, tensor.dtype(), tensor.shape()});
  if (!results.empty()) check_results(golden.call, results);
  for (const auto& [name, shape] : bound_shapes) {
    const Tensor* result = find(golden.results, name);
    if (!result) throw InputError(dataset_name("bounds/" + name) + " bounds a dataset that the file lacks");
    if (shape != result->shape())
      throw InputError(dataset_name("bounds/" + name) + " has shape " + to_string(shape) + ": want " +
                       to_string(result->shape()));
  }
}

/// A request to the child: what to read, then the file's path.
void answer(const std::string& request, Sender& sender) {
  send_file(request.substr(1), static_cast<Content>(request.front()), sender);
}

/// One child reads many files: to start one costs more than most files do.
AnsweringChild& reading_child() {
  static AnsweringChild the_one(answer);
  return the_one;
}

/// Runs `consume` on what the child sends, and puts the file's name before whatever goes wrong.
template <typename Consume>
void read(const fs::path& path, Content content, Consume&& consume) {
  std::error_code unknown_size;
  const std::uintmax_t megabytes = fs::file_size(path, unknown_size) >> 20;
  const unsigned cpu_seconds = unknown_size ? 2 : 2 + static_cast<unsigned>(megabytes / 10);
  std::string wrong;
  try {
    // The child's own working folder is that of its start.
    std::error_code nowhere;
    const std::string request = static_cast<char>(content) + fs::absolute(path, nowhere).string();
    reading_child().ask(cpu_seconds, "is a damaged HDF5 file: HDF5 crashes on it", request, consume);
    return;
  } catch (const InputError& error) {
    wrong = error.what();
  } catch (const std::bad_alloc&) {
    wrong = "does not fit into memory";
  } catch (const std::length_error&) {
    wrong = "does not fit into memory";
  }
  throw InputError(hdf5::one_line(path.string() + ": " + wrong));
}

}  // namespace

GoldenFile read_golden(const fs::path& path, BoundValues bound_values) {
  const Content content =
      bound_values == BoundValues::kept ? Content::golden : Content::golden_without_bounds;
  GoldenFile golden;
  NamedShapes bound_shapes;
  read(path, content, [&](Receiver& receiver) {
    receive_attributes(receiver, golden, golden.call.component, golden.call.config, golden.call.options);
    while (receiver.next()) receive_dataset(receiver, content, golden, bound_shapes);
    const auto holds = [](const NamedTensors& tensors, std::string_view group) {
      const auto first = tensors.lower_bound(group);
      return first != tensors.end() && first->first.starts_with(group);
    };
    golden.call.backward =
        golden.results.empty() ? holds(golden.call.tensors, "cotangents/") : holds(golden.results, "grads/");
    check(golden, bound_shapes);
  });
  return golden;
}

GoldenHeader read_golden_header(const fs::path& path) {
  GoldenHeader header;
  read(path, Content::header, [&](Receiver& receiver) {
    receive_attributes(receiver, header, header.component, header.config, header.options);
    while (receiver.next()) header.datasets.push_back(receive_info(receiver));
  });
  return header;
}

NamedTensors read_results(const fs::path& path) {
  NamedTensors results;
  read(path, Content::results, [&](Receiver& receiver) {
    while (receiver.next()) {
      const DatasetInfo info = receive_info(receiver);
      results[info.path] = receive_data(receiver, info);
    }
    if (results.empty()) throw InputError("holds no dataset in the groups outputs, grads and stages");
  });
  return results;
}

}  // namespace moeref
