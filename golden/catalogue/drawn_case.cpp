#include "golden/catalogue/drawn_case.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <span>
#include <sstream>
#include <string_view>
#include <utility>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/reference.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/call/tokens.hpp"
#include "reference_cpu/verdict/reduced_call.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"

namespace moeref {
namespace {

using nlohmann::json;

constexpr std::string_view kEnding = ".drawn.json";
constexpr int kVersion = 1;
constexpr std::int64_t kTokens = 6;              ///< whose rows are kept
constexpr std::int64_t kElementsOfResult = 160;  ///< that are kept, of each part of each result

/// FNV-1a over 64-bit words, the last one filled with zeros, of the bytes as they lie in memory.
std::string hash_of(const Tensor& tensor) {
  std::uint64_t hash = name_hash(name(tensor.dtype()));
  const std::span<const std::byte> bytes = tensor.bytes();
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min<std::size_t>(8, bytes.size() - at));
    hash = (hash ^ word) * 0x100000001b3u;
  }
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(hash));
  return text.data();
}

/// Elements of the results that the reduced call has, at random places, the first and the last among them.
void take_samples(const ReducedCall& reduced, const Evaluation& evaluation, bool slots_are_given,
                  std::uint64_t seed, DrawnCase& out) {
  for (const auto& [name, part] : reduced.results) {
    // The order of a port's slots carries no meaning.
    if (name == "outputs/indices" || (name.ends_with("/weights") && !slots_are_given)) continue;
    const std::int64_t size = part.in_whole.size();
    std::set<std::int64_t> places;
    for (const std::int64_t edge : {std::int64_t{0}, size - 1})
      if (edge >= 0) places.insert(edge);
    const CounterGenerator random(seed, "samples of " + name);
    for (std::uint64_t i = 0; size > 0 && i < static_cast<std::uint64_t>(kElementsOfResult); ++i)
      places.insert(static_cast<std::int64_t>(random.integer(i, static_cast<std::uint64_t>(size))));
    const BoundedTensor& result = evaluation.results.at(name);
    for (const std::int64_t place : places) {
      const auto at = static_cast<std::size_t>(part.first + place);
      if (std::isfinite(result.value[at]) && std::isfinite(result.bound[at]))  // JSON has no infinities
        out.samples[name].push_back({part.in_whole.whole_index(place), result.value[at], result.bound[at]});
    }
  }
}

/// The first, the last and random tokens; of those a router looks at, ones whose experts are certified.
std::vector<std::int64_t> choose_tokens(const Call& call, std::uint64_t seed) {
  const std::int64_t all = token_count(call);
  const CounterGenerator random(seed, "sampled tokens");
  std::set<std::int64_t> candidates{0, all - 1};
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(8 * kTokens); ++i)
    candidates.insert(static_cast<std::int64_t>(random.integer(i, static_cast<std::uint64_t>(all))));
  std::vector<std::int64_t> tokens(candidates.begin(), candidates.end()), out;
  const bool routed = call.component == Component::gate || call.component == Component::moe;
  Evaluation routing;
  if (routed) {
    Call forward = reduce_to_tokens(call, tokens).call;
    forward.backward = false;
    std::erase_if(forward.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
    routing = evaluate(forward);
  }
  const auto certified = [&](std::size_t i) {
    return std::ranges::all_of(routing.routing, [&](const RoutingScores& r) {
      const BoundedTensor& ids = routing.results.at(r.indices);
      const auto first = ids.value.begin() + static_cast<std::ptrdiff_t>(i) * r.k;
      std::vector<std::int64_t> own;
      std::transform(first, first + r.k, std::back_inserter(own),
                     [](double id) { return static_cast<std::int64_t>(id); });
      return judge_selection(r, static_cast<std::int64_t>(i), own).certified;
    });
  };
  const auto step = std::max<std::size_t>(1, tokens.size() / static_cast<std::size_t>(kTokens));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if ((i % step == 0 || i + 1 == tokens.size()) && (!routed || certified(i))) out.push_back(tokens[i]);
  if (out.empty())
    throw InputError("none of " + std::to_string(tokens.size()) +
                     " tokens is routed in one way alone within the bounds: take a wider dtype");
  return out;
}

/// Gradients of hidden units: of the MLP, or of the expert of the first slot.
void sample_units(const Call& call, const CaseSpec& spec, DrawnCase& out) {
  if (!call.backward || (call.component != Component::mlp && call.component != Component::experts)) return;
  const bool mlp = call.component == Component::mlp;
  const std::int64_t width =
      mlp ? parse_mlp_config(call.config).inter_dim : parse_moe_config(call.config).moe_inter_dim;
  const std::vector<std::int64_t> units{0, width / 2, width - 1};
  if (mlp) {
    const ReducedCall reduced = reduce_mlp_to_units(call, units);
    take_samples(reduced, evaluate(reduced.call), true, spec.seed, out);
    return;
  }
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::vector<bool> live = live_tokens(call);
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    if (ids[slot] < 0.0 || !live[static_cast<std::size_t>(slot / ids.extent(1))]) continue;
    const ReducedCall reduced = reduce_to_expert(call, ids, static_cast<std::int64_t>(ids[slot]), units);
    take_samples(reduced, evaluate(reduced.call), true, spec.seed, out);
    return;
  }
}

json samples_of(const std::vector<ResultSample>& samples) {
  json out = json::array();
  for (const ResultSample& s : samples) out.push_back({s.index, s.value, s.bound});
  return out;
}

DrawnCase from_json(const json& text) {
  if (text.at("moeref_drawn_case") != kVersion)
    throw InputError("unknown version " + text.at("moeref_drawn_case").dump() + ": want " +
                     std::to_string(kVersion));
  DrawnCase out;
  out.spec = parse_case_spec(text.at("case"));
  out.producer = text.at("producer");
  out.hashes = text.at("hashes").get<std::map<std::string, std::string>>();
  for (const auto& [name, samples] : text.at("samples").items())
    for (const json& s : samples)
      out.samples[name].push_back({s.at(0).get<std::int64_t>(), s.at(1).get<double>(), s.at(2).get<float>()});
  return out;
}

}  // namespace

bool is_drawn_case(const std::filesystem::path& file) { return file.filename().string().ends_with(kEnding); }

std::string drawn_file_name(const CaseSpec& spec) { return full_name(spec) + std::string(kEnding); }

DrawnCase make_drawn_case(CaseSpec spec) {
  spec.margin = 0.0;  // to redraw tokens every score would have to be computed; certified ones are looked for
  DrawnCase out;
  const Call call = build_call(spec);
  if (!can_be_reduced(call) || call.component == Component::gate)
    throw InputError("case '" + label(spec) +
                     "': a drawn case wants experts, mlp or a layer with a real gate, on one rank");
  for (const auto& [name, tensor] : call.tensors) out.hashes[name] = hash_of(tensor);
  if (call.component == Component::moe && parse_moe_config(call.config).has_loss())
    throw InputError("case '" + label(spec) + "': a drawn layer has no loss, which is of all tokens");
  const ReducedCall rows = reduce_to_tokens(call, choose_tokens(call, spec.seed));
  take_samples(rows, evaluate(rows.call), call.component == Component::experts, spec.seed, out);
  sample_units(call, spec, out);
  out.producer = "moeref " MOEREF_VERSION;
  out.spec = std::move(spec);
  return out;
}

std::string to_text(const DrawnCase& drawn) {
  std::string out = "{\"moeref_drawn_case\": " + std::to_string(kVersion) +
                    ",\n \"producer\": " + json(drawn.producer).dump() +
                    ",\n \"case\": " + to_json(drawn.spec).dump() + ",\n \"hashes\": {";
  const char* between = "\n  ";
  for (const auto& [name, hash] : drawn.hashes) {
    out += between + json(name).dump() + ": " + json(hash).dump();
    between = ",\n  ";
  }
  out += "},\n \"samples\": {";
  between = "\n  ";
  for (const auto& [name, samples] : drawn.samples) {
    out += between + json(name).dump() + ": " + samples_of(samples).dump();
    between = ",\n  ";
  }
  return out + "}}\n";
}

DrawnCase read_drawn_case(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  try {
    if (!in) throw InputError("cannot be read");
    return from_json(json::parse(text.str()));
  } catch (const json::exception& error) {
    throw InputError(file.string() + ": is no drawn case: " + error.what());
  } catch (const InputError& error) {
    throw InputError(file.string() + ": " + error.what());
  }
}

Call draw_call(const DrawnCase& drawn) {
  Call call = build_call(drawn.spec);
  for (const auto& [name, tensor] : call.tensors) {
    const auto hash = drawn.hashes.find(name);
    if (hash == drawn.hashes.end()) throw InputError("hash of '" + name + "' is missing");
    if (const std::string own = hash_of(tensor); own != hash->second)
      throw InputError("'" + name + "' is drawn otherwise here: hash " + own + ", want " + hash->second);
  }
  if (call.tensors.size() != drawn.hashes.size())
    throw InputError("there are hashes of " + std::to_string(drawn.hashes.size()) +
                     " tensors and the call has " + std::to_string(call.tensors.size()));
  return call;
}

}  // namespace moeref
