#include "tools/judging/port_probe.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>

#include "property_tests/layer/batch_invariance.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "tools/judging/declarations.hpp"
#include "tools/judging/sum_probe.hpp"
#include "tools/ports/tensor_difference.hpp"

namespace moeref {
namespace {

constexpr std::array kProbedTypes{DType::float32, DType::bfloat16, DType::float64};
constexpr std::array kByToken{Component::gate, Component::mlp, Component::experts, Component::moe};

/// The results, or why there are none.
struct ProbeAnswer {
  NamedTensors results;
  NamedTensors repeated;  ///< of the same call again, where the bits differ
  std::string reason;
  bool unsupported = false;
};

ProbeAnswer ask(Port& port, const Call& call) {
  if (const auto lack = port.unsupported(call)) return {{}, {}, *lack, true};
  PortOutcome outcome = port.run({}, call);
  const bool unsupported = outcome.verdict == Verdict::not_supported;
  if (outcome.results.empty() && outcome.finding.empty()) outcome.finding = "it gives no results";
  return {std::move(outcome.results), std::move(outcome.repeated), outcome.finding, unsupported};
}

/// A layer of some size on rough data.
Descriptor probe_layer(Component component, std::int64_t tokens, DType dtype, std::uint64_t seed) {
  Descriptor d;
  d.component = component;
  d.T = tokens;
  d.E = 8;
  d.k = component == Component::mlp ? 1 : 2;
  d.D = 48;
  d.I = 24;
  d.dtype = dtype;
  d.logits = Logits::rough;
  d.values = Values::rough;
  d.seed = seed;
  repair(d);
  return d;
}

bool wanted(const ProbeOptions& options, Component component) {
  return options.components.empty() ||
         std::ranges::find(options.components, component) != options.components.end();
}

bool with_gradients(const Port& port) {
  const Capabilities* has = port.capabilities();
  return !has || has->backward;
}

/// The first type in which the port computes the component, and whether with gradients.
struct Setting {
  DType dtype = DType::float32;
  bool backward = false;
};
std::optional<Setting> setting(Port& port, Component component, std::string& why) {
  for (const DType dtype : kProbedTypes)
    for (const bool backward : {true, false}) {
      if (backward && !with_gradients(port)) continue;
      const ProbeAnswer answer = ask(port, make_call(probe_layer(component, 2, dtype, 1), backward));
      if (!answer.results.empty()) return Setting{dtype, backward};
      why = answer.reason;
    }
  return std::nullopt;
}

Standing standing(bool holds, bool declared) {
  if (!declared) return Standing::measured;
  return holds ? Standing::proven : Standing::refuted;
}

/// Calls `use` for each component that the port computes; a fact says why where it computes none of it.
template <typename Use>
std::vector<ProbeFact> by_component(Port& port, const ProbeOptions& options, std::string_view subject,
                                    Use&& use) {
  std::vector<ProbeFact> out;
  for (const Component component : kByToken) {
    if (!wanted(options, component)) continue;
    std::string why;
    if (const auto how = setting(port, component, why))
      out.push_back(use(component, *how));
    else
      out.push_back({std::string(name(component)), std::string(subject), why, Standing::unknown});
  }
  return out;
}

std::vector<std::int64_t> run_ladder(std::int64_t most) {
  std::vector<std::int64_t> out;
  for (const std::int64_t tokens : {1, 7, 64, 257, 1025})
    if (tokens <= most) out.push_back(tokens);
  if (out.back() < most) out.push_back(most);
  return out;
}

}  // namespace

std::string_view name(Standing standing) {
  constexpr std::array<std::string_view, 4> names{"measured", "proven", "refuted", "unknown"};
  return names[static_cast<std::size_t>(standing)];
}

std::vector<std::int64_t> batch_ladder(std::int64_t most_tokens) {
  std::vector<std::int64_t> out;
  for (std::int64_t b = 8; b <= 1024; b *= 2)
    for (const std::int64_t tokens : {b - 1, b, b + 1})
      if (tokens <= most_tokens && (out.empty() || tokens > out.back())) out.push_back(tokens);
  return out;
}

std::vector<ProbeFact> probe_repetition(Port& port, const ProbeOptions& options) {
  const bool declared = declared_by(port).repeatable;
  constexpr std::string_view kSubject = "run to run";
  return by_component(port, options, kSubject, [&](Component component, Setting how) {
    ProbeFact fact{std::string(name(component)), std::string(kSubject), "", Standing::measured};
    int calls = 0;
    const std::vector<std::int64_t> ladder = run_ladder(options.most_tokens);
    for (const std::int64_t tokens : ladder) {
      const Descriptor d = probe_layer(component, tokens, how.dtype, options.seed);
      const Call call = make_call(d, how.backward);
      NamedTensors first;
      for (int run = 0; run < options.runs; ++run) {
        if (options.keep_busy) options.keep_busy(run >= options.runs / 2);
        const ProbeAnswer answer = ask(port, call);
        ++calls;
        std::optional<std::string> other;
        if (!answer.reason.empty())
          other = answer.reason;
        else if (!answer.repeated.empty())
          other = differing_results(answer.results, answer.repeated);
        else if (run > 0)
          other = differing_results(first, answer.results);
        if (run == 0) first = answer.results;
        if (!other) continue;
        fact.found = fmt::format("other bits in run {} with {} tokens: {}", run + 1, tokens, *other);
        fact.line = to_line(d);
        fact.standing = standing(false, declared);
        if (options.keep_busy) options.keep_busy(false);
        return fact;
      }
    }
    if (options.keep_busy) options.keep_busy(false);
    fact.found = fmt::format("the same bits over {} calls in {}{}, {} sizes of 1 to {} tokens{}", calls,
                             name(how.dtype), how.backward ? " with gradients" : "", ladder.size(),
                             ladder.back(), options.keep_busy ? ", half of them beside a busy port" : "");
    fact.standing = standing(true, declared);
    return fact;
  });
}

std::vector<ProbeFact> probe_batches(Port& port, const ProbeOptions& options) {
  const bool declared = declared_by(port).batch_invariant;
  constexpr std::string_view kSubject = "alone or in a batch";
  return by_component(port, options, kSubject, [&](Component component, Setting how) {
    ProbeFact fact{std::string(name(component)), std::string(kSubject), "", Standing::measured};
    Descriptor d = probe_layer(component, 17, how.dtype, options.seed);
    const Call call = make_call(d, how.backward);
    const std::int64_t only[] = {0};
    const ProbeAnswer alone = ask(port, with_tokens(call, only));
    const std::vector<std::int64_t> ladder = batch_ladder(options.most_tokens);
    std::optional<std::string> by_place;
    std::int64_t sizes = 0;
    for (const std::int64_t size : ladder) {
      for (const std::int64_t first : {0, 1}) {
        const std::vector<std::int64_t> order = crowd(size, first, d.T, size);
        const ProbeAnswer batch = ask(port, with_tokens(call, order));
        const auto other = row_difference(alone.results, batch.results, order);
        if (!other && !batch.results.empty() && !alone.results.empty()) continue;
        fact.line = to_line(d);
        fact.standing = standing(false, declared);
        if (!other) {
          fact.found = fmt::format("no results with {} tokens: {}", size, batch.reason);
          return fact;
        }
        // The same token at another place of the same batch tells whether it is the place.
        const Tensor& rows = batch.results.at(other->tensor);
        const std::int64_t width = rows.size() / size;
        const auto same_everywhere = [&] {
          for (std::int64_t t = first; t < size; t += 2)
            for (std::int64_t i = 0; i < width; ++i)
              if (rows[t * width + i] != rows[first * width + i]) return false;
          return true;
        };
        fact.found = fmt::format(
            "other bits from {} tokens on: {}[{}] is {:.9g}, alone {:.9g}; {}", size, other->tensor,
            other->index, other->value, other->alone,
            same_everywhere() ? "the same at every place of that batch" : "and not the same at every place");
        return fact;
      }
      ++sizes;
    }
    fact.found = fmt::format("the same bits at every place of {} sizes up to {} tokens, in {}{}", sizes,
                             ladder.back(), name(how.dtype), how.backward ? " with gradients" : "");
    fact.standing = standing(true, declared);
    return fact;
  });
}

std::vector<ProbeFact> probe_ties(Port& port, const ProbeOptions& options) {
  if (!wanted(options, Component::gate)) return {};
  const bool declared = declared_by(port).lowest_id_first;
  ProbeFact fact{"gate", "equal scores", "", Standing::unknown};
  std::string why;
  const auto how = setting(port, Component::gate, why);
  if (!how) {
    fact.found = why;
    return {fact};
  }
  std::int64_t lowest = 0, highest = 0, tokens = 0, most_experts = 0;
  for (const std::int64_t experts : {4, 8, 64, 128, 257}) {
    for (const std::int64_t k : {std::int64_t{1}, std::min<std::int64_t>(experts / 2, 8)}) {
      Descriptor d = probe_layer(Component::gate, 3, how->dtype, options.seed);
      d.E = experts;
      d.k = k;
      d.logits = Logits::equal;
      repair(d);
      const Call call = make_call(d);
      const ProbeAnswer answer = ask(port, call);
      const Tensor* ids = find(answer.results, "outputs/indices");
      if (!ids) continue;
      most_experts = experts;
      bool all_lowest = true;
      for (std::int64_t t = 0; t < d.T; ++t) {
        std::vector<std::int64_t> chosen;
        for (std::int64_t j = 0; j < k; ++j) chosen.push_back(static_cast<std::int64_t>((*ids)[t * k + j]));
        std::ranges::sort(chosen);
        std::vector<std::int64_t> low(chosen.size());
        std::iota(low.begin(), low.end(), 0);
        std::vector<std::int64_t> high(chosen.size());
        std::iota(high.begin(), high.end(), experts - k);
        ++tokens;
        lowest += chosen == low;
        highest += chosen == high;
        all_lowest = all_lowest && chosen == low;
      }
      if (!all_lowest && fact.line.empty()) fact.line = to_line(d);
    }
  }
  if (tokens == 0) {
    fact.found = "it gives out no expert ids";
    return {fact};
  }
  fact.standing = standing(lowest == tokens, declared);
  if (lowest == tokens)
    fact.found =
        fmt::format("the lowest ids first, over {} tokens with 4 to {} experts", tokens, most_experts);
  else if (highest == tokens)
    fact.found =
        fmt::format("the highest ids first, over {} tokens with 4 to {} experts", tokens, most_experts);
  else
    fact.found = fmt::format("no one rule: of {} tokens {} took the lowest ids, {} the highest", tokens,
                             lowest, highest);
  if (fact.standing != Standing::refuted && lowest == tokens) fact.line.clear();
  return {fact};
}

std::vector<ProbeFact> probe_sums(Port& port, const ProbeOptions& options) {
  const std::optional<DType> declared = declared_accumulation(port);
  const auto bits_of = [](DType dtype) {
    return dtype == DType::float64 ? 53 : dtype == DType::float32 ? 24 : dtype == DType::float16 ? 11 : 8;
  };
  std::vector<ProbeFact> out;
  for (const SumKind& kind : sum_kinds()) {
    if (!wanted(options, kind.component)) continue;
    for (const DType dtype : kProbedTypes) {
      bool unsupported = false;
      const RunCall run = [&](const Call& call) {
        ProbeAnswer answer = ask(port, call);
        unsupported = answer.unsupported;
        if (answer.results.empty()) throw std::runtime_error(answer.reason);
        return std::move(answer.results);
      };
      const SumFindings sum = probe_sum(kind, run, dtype, options.terms);
      if (unsupported) continue;
      ProbeFact fact{std::string(name(kind.component)), fmt::format("sum of the {}", kind.name), "",
                     Standing::unknown};
      if (!sum.unknown.empty()) {
        fact.found = fmt::format("in {}: no order found: {}", name(dtype), sum.unknown);
        out.push_back(std::move(fact));
        continue;
      }
      fact.tree = sum.tree;
      fact.standing = Standing::measured;
      fact.found = fmt::format("in {}: {}", name(dtype), sum.order);
      if (sum.bits > 0) {
        fact.found += fmt::format("; accumulates in {}{}", accumulator_in_words(sum.bits),
                                  sum.cuts_off ? ", cutting off" : "");
        // In float64 calls every port accumulates in float64 at least.
        const int want = std::max(declared ? bits_of(*declared) : 0, dtype == DType::float64 ? 53 : 0);
        if (declared) fact.standing = standing(sum.bits >= want, true);
        if (declared && sum.bits > want) fact.found += ", more than declared";
        if (fact.standing == Standing::refuted)
          fact.line = fmt::format(
              "{} terms of 64 or 1/32 with 2^k and -2^k among them: less than the {} bits declared",
              std::min(options.terms, kind.most_terms), want);
      }
      out.push_back(std::move(fact));
    }
  }
  return out;
}

}  // namespace moeref
