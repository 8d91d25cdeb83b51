// Masks, expert ids and loads (data_choice.hpp).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "golden/catalogue/data_kinds.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {
namespace {

/// Index of (row, column) with the fixed stride of draw_reals.cpp.
std::uint64_t index_of(std::int64_t row, std::int64_t column) {
  return static_cast<std::uint64_t>(row) << 21 | static_cast<std::uint64_t>(column);
}

/// One token of a mask: token s of `length` in sequence b of `sequences`.
struct MaskPlace {
  const DataChoice& choice;
  const CounterGenerator& generator;
  std::int64_t b, s, length, sequences;

  /// Sequences of one batch are padded by different amounts, up to the share.
  std::int64_t padding() const {
    const auto most = static_cast<double>(length * (b + 1)) / static_cast<double>(sequences);
    return static_cast<std::int64_t>(std::floor(choice["share"] * most));
  }
};

struct MaskKind : DataKind {
  bool (*masked)(const MaskPlace&);
};

const std::vector<MaskKind>& mask_table() {
  static const std::vector<MaskKind> kinds{
      {{"absent", {}}, nullptr},  // the call has no mask
      {{"none", {}}, [](const MaskPlace&) { return false; }},
      {{"all", {}}, [](const MaskPlace&) { return true; }},
      {{"random", {{"share", 0.25, 0.0, 1.0}}},
       [](const MaskPlace& p) { return p.generator.uniform(index_of(p.b, p.s)) < p.choice["share"]; }},
      {{"first", {}}, [](const MaskPlace& p) { return p.s == 0; }},  // of every sequence
      {{"last", {}}, [](const MaskPlace& p) { return p.s == p.length - 1; }},
      {{"prefix", {{"share", 0.5, 0.0, 1.0}}}, [](const MaskPlace& p) { return p.s < p.padding(); }},
      {{"suffix", {{"share", 0.5, 0.0, 1.0}}},
       [](const MaskPlace& p) { return p.s >= p.length - p.padding(); }},
      {{"every_second", {}}, [](const MaskPlace& p) { return p.s % 2 == 1; }},
      {{"all_but", {{"token", 0.0, 0.0}}},
       [](const MaskPlace& p) { return static_cast<double>(p.b * p.length + p.s) != p.choice["token"]; }},
  };
  return kinds;
}

/// The slots of one token.
struct IdRow {
  const DataChoice& choice;
  const CounterGenerator& generator;
  const CounterGenerator& second;
  std::int64_t token, experts;
  std::span<std::int64_t> out;

  std::int64_t slots() const { return static_cast<std::int64_t>(out.size()); }
  template <typename Id>
  void each(Id&& id) const {
    for (std::int64_t j = 0; j < slots(); ++j) out[static_cast<std::size_t>(j)] = id(j);
  }
  /// Different ids in random order, of those that `allowed` leaves: the first steps of a Fisher-Yates
  /// shuffle.
  template <typename Allowed>
  void distinct(Allowed&& allowed) const {
    std::vector<std::int64_t> from;
    for (std::int64_t id = 0; id < experts; ++id)
      if (allowed(id)) from.push_back(id);
    if (from.size() < out.size())
      throw InputError("ids of the kind '" + choice.kind + "' cannot fill " + std::to_string(out.size()) +
                       " slots with " + std::to_string(from.size()) + " of " + std::to_string(experts) +
                       " experts");
    for (std::size_t j = 0; j < out.size(); ++j) {
      std::swap(from[j],
                from[j + generator.integer(index_of(token, static_cast<std::int64_t>(j)), from.size() - j)]);
      out[j] = from[j];
    }
  }
  void distinct() const {
    distinct([](std::int64_t) { return true; });
  }
  bool chance(std::int64_t column, double share) const {
    return second.uniform(index_of(token, column)) < share;
  }
};

/// Different ids, each drawn as floor(experts u^power) and moved up to the next one that is free.
void skewed(const IdRow& r) {
  if (r.slots() > r.experts) return r.distinct();  // which says why not
  const int power = static_cast<int>(r.choice["power"]);
  for (std::size_t j = 0; j < r.out.size(); ++j) {
    const double u = r.generator.uniform(index_of(r.token, static_cast<std::int64_t>(j)));
    double share = u;
    for (int p = 1; p < power; ++p) share *= u;
    auto id = static_cast<std::int64_t>(share * static_cast<double>(r.experts));
    const std::span<std::int64_t> before = r.out.first(j);
    while (std::ranges::find(before, id) != before.end()) id = (id + 1) % r.experts;
    r.out[j] = id;
  }
}

struct IdKind : DataKind {
  void (*fill)(const IdRow&);
};

const std::vector<IdKind>& id_table() {
  static const std::vector<IdKind> kinds{
      {{"absent", {}}, nullptr},  // nothing is replayed
      {{"distinct", {}}, [](const IdRow& r) { r.distinct(); }},
      {{"skewed", {{"power", 3.0, 1.0, 8.0}}}, skewed},  // low ids far more often
      {{"same", {{"first", 0.0, 0.0}}},                  // every token the same experts
       [](const IdRow& r) {
         r.each(
             [&](std::int64_t j) { return (static_cast<std::int64_t>(r.choice["first"]) + j) % r.experts; });
       }},
      {{"two", {}},  // all tokens to experts 1 and E - 2
       [](const IdRow& r) {
         r.each([&](std::int64_t j) {
           return (r.token + j) % 2 == 0 ? 1 % r.experts : std::max<std::int64_t>(0, r.experts - 2);
         });
       }},
      {{"some_empty", {{"period", 3.0, 2.0}}},  // no token for experts period - 1, 2 period - 1, ...
       [](const IdRow& r) {
         const auto period = static_cast<std::int64_t>(r.choice["period"]);
         r.distinct([&](std::int64_t id) { return id % period != period - 1; });
       }},
      {{"round_robin", {}},  // perfectly balanced
       [](const IdRow& r) { r.each([&](std::int64_t j) { return (r.token * r.slots() + j) % r.experts; }); }},
      {{"duplicates", {{"share", 0.5, 0.0, 1.0}}},  // in this share of tokens the last slot repeats the first
       [](const IdRow& r) {
         r.distinct();
         if (r.chance(0, r.choice["share"])) r.out.back() = r.out.front();
       }},
      {{"absent_slots", {{"share", 0.3, 0.0, 1.0}}},  // this share of slots is -1, and all of token 0
       [](const IdRow& r) {
         r.distinct();
         for (std::int64_t j = 0; j < r.slots(); ++j)
           if (r.token == 0 || r.chance(j, r.choice["share"])) r.out[static_cast<std::size_t>(j)] = -1;
       }},
      {{"all_absent", {}}, [](const IdRow& r) { r.each([](std::int64_t) { return -1; }); }},
      {{"last_expert", {}},  // every token has expert E - 1, and others in its further slots
       [](const IdRow& r) {
         r.distinct();
         const auto last = std::ranges::find(r.out, r.experts - 1);
         std::swap(*(last == r.out.end() ? r.out.begin() : last), r.out.front());
         r.out.front() = r.experts - 1;
       }},
  };
  return kinds;
}

struct LoadKind : DataKind {
  std::int64_t (*load)(const DataChoice&, const CounterGenerator&, std::int64_t layer, std::int64_t expert);
};

std::int64_t random_load(const DataChoice& c, const CounterGenerator& g, std::int64_t layer,
                         std::int64_t expert) {
  return static_cast<std::int64_t>(
      g.integer(index_of(layer, expert), static_cast<std::uint64_t>(c["most"]) + 1));
}

/// Layer by layer: random, half of the experts dead, equal, one expert, none.
std::int64_t mixed_load(const DataChoice& c, const CounterGenerator& g, std::int64_t layer,
                        std::int64_t expert) {
  switch (layer % 5) {
    case 0:
      return random_load(c, g, layer, expert);
    case 1:
      return expert % 2 == 0 ? random_load(c, g, layer, expert) + 1 : 0;
    case 2:
      return static_cast<std::int64_t>(c["most"]);
    case 3:
      return expert == 1 ? static_cast<std::int64_t>(c["most"]) : 0;
    default:
      return 0;
  }
}

const std::vector<LoadKind>& load_table() {
  static const std::vector<LoadKind> kinds{
      {{"random", {{"most", 100.0, 0.0, 1e9}}}, random_load},
      {{"zero", {}},
       [](const DataChoice&, const CounterGenerator&, std::int64_t, std::int64_t) {
         return std::int64_t{0};
       }},
      {{"equal", {{"count", 16.0, 0.0, 1e9}}},
       [](const DataChoice& c, const CounterGenerator&, std::int64_t, std::int64_t) {
         return static_cast<std::int64_t>(c["count"]);
       }},
      {{"single", {{"count", 64.0, 0.0, 1e9}, {"at", 0.0, 0.0}}},
       [](const DataChoice& c, const CounterGenerator&, std::int64_t, std::int64_t expert) {
         return static_cast<double>(expert) == c["at"] ? static_cast<std::int64_t>(c["count"]) : 0;
       }},
      {{"mixed", {{"most", 100.0, 0.0, 1e9}}}, mixed_load},
  };
  return kinds;
}

}  // namespace

std::vector<DataKind> mask_kinds() { return without_code(mask_table()); }
std::vector<DataKind> id_kinds() { return without_code(id_table()); }
std::vector<DataKind> load_kinds() { return without_code(load_table()); }

std::vector<bool> draw_masked_tokens(const DataChoice& choice, const DataStream& stream,
                                     const Shape& tokens) {
  const auto masked = require_kind(mask_table(), choice.kind).masked;
  if (!masked) throw InputError("a mask of the kind '" + choice.kind + "' masks no tokens");
  const std::int64_t length = tokens.empty() ? 1 : tokens.back();
  const std::int64_t count = element_count(tokens);
  const std::int64_t sequences = length > 0 ? count / length : 0;
  const CounterGenerator generator(stream.seed, stream.tensor);
  std::vector<bool> out(static_cast<std::size_t>(count));
  for (std::int64_t t = 0; t < count; ++t)
    out[static_cast<std::size_t>(t)] = masked({choice, generator, t / length, t % length, length, sequences});
  return out;
}

Tensor draw_ids(const DataChoice& choice, const DataStream& stream, std::int64_t tokens, std::int64_t k,
                std::int64_t experts) {
  const auto fill = require_kind(id_table(), choice.kind).fill;
  if (!fill) throw InputError("ids of the kind '" + choice.kind + "' where ids must be given");
  const CounterGenerator generator(stream.seed, stream.tensor),
      second(stream.seed, stream.tensor + " second");
  std::vector<std::int64_t> ids(static_cast<std::size_t>(tokens * k));
  for (std::int64_t t = 0; t < tokens; ++t)
    fill({choice, generator, second, t, experts,
          std::span(ids).subspan(static_cast<std::size_t>(t * k), static_cast<std::size_t>(k))});
  return Tensor::of({tokens, k}, ids);
}

Tensor draw_loads(const DataChoice& choice, const DataStream& stream, const Shape& shape) {
  const auto load = require_kind(load_table(), choice.kind).load;
  const CounterGenerator generator(stream.seed, stream.tensor);
  std::vector<std::int64_t> loads(static_cast<std::size_t>(element_count(shape)));
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const std::int64_t experts = shape.back(), at = static_cast<std::int64_t>(i);
    loads[i] = load(choice, generator, at / experts, at % experts);
  }
  return Tensor::of(shape, loads);
}

}  // namespace moeref
