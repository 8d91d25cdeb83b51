#include "tools/judging/agreement.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "moeref/config.hpp"
#include "reference_cpu/verdict/own_selection.hpp"
#include "reference_cpu/verdict/reference_results.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"
#include "tools/judging/declarations.hpp"

namespace moeref {
namespace {

/// Results with one row per token; everything else is made of all tokens.
constexpr std::array kByTokenPrefixes{
    std::string_view("stages/"),         std::string_view("outputs/y"),
    std::string_view("outputs/weights"), std::string_view("grads/x"),
    std::string_view("grads/weights"),   std::string_view("grads/original_scores")};
/// Of these, with a slot per expert behind the token.
constexpr std::array kBySlot{std::string_view("outputs/weights"), std::string_view("grads/weights"),
                             std::string_view("stages/up_projection"), std::string_view("stages/activation"),
                             std::string_view("stages/down_projection")};

bool by_token(std::string_view tensor) {
  return std::ranges::any_of(kByTokenPrefixes, [&](std::string_view p) {
    return p.ends_with('/') ? tensor.starts_with(p) : tensor == p;
  });
}

/// One side's part in the comparison of a call.
struct Side {
  const AgreementSide& given;
  const Evaluation& reference;  ///< on this side's own routing
};

/// One routing decision, token by token.
struct TokenRouting {
  bool all_alike = true, all_in_order = true;
  std::vector<bool> alike, in_order;    ///< the same experts, and in the same slots
  std::vector<std::int64_t> slot_in_b;  ///< [T, k]: where the expert of a's slot stands in b
};

std::string ids_text(std::span<const std::int64_t> ids) {
  std::vector<std::int64_t> sorted(ids.begin(), ids.end());
  std::ranges::sort(sorted);
  std::string out;
  for (const std::int64_t id : sorted) out += (out.empty() ? "{" : ", ") + std::to_string(id);
  return out + "}";
}

/// Whether a side's choice for a token follows from honest rounding, and why not.
class SideChoices {
 public:
  SideChoices(const Call& call, const Side& side, const RoutingScores& scores, const Tensor& ids)
      : scores_(scores), lowest_(side.given.lowest_id_first) {
    if (usable(scores, &ids)) {
      JudgeOptions options;
      options.lowest_id_first = lowest_;
      own_ = judge_own_selection(call, side.given.results, scores, ids, options);
    }
  }

  bool explained(std::int64_t token, std::span<const std::int64_t> ids, std::string& why) const {
    if (own_.wrong == token) {
      why = own_.finding;
      return false;
    }
    const SelectionVerdict v = judge_selection(scores_, token, ids);
    const bool proven = own_.shown && own_.wrong < 0 && own_.proven[static_cast<std::size_t>(token)];
    if (v.selection == Selection::tied && lowest_ && !proven) {
      why = "equal scores at the cut, and not the lowest ids, as it declares";
      return false;
    }
    why = v.finding;
    return v.selection < Selection::wrong || (proven && v.selection != Selection::invalid);
  }

 private:
  const RoutingScores& scores_;
  bool lowest_;
  OwnSelection own_;
};

const RoutingScores* decision(const Evaluation& evaluation, const std::string& indices) {
  const auto it = std::ranges::find(evaluation.routing, indices, &RoutingScores::indices);
  return it == evaluation.routing.end() ? nullptr : &*it;
}

std::string shown_number(double v) { return fmt::format("{:.9g}", v); }

Blame blame_of(bool a, bool b) { return a && b ? Blame::both : a ? Blame::a : b ? Blame::b : Blame::none; }

TokenRouting compare_routing(const Call& call, const std::string& line, const Side& a, const Side& b,
                             const RoutingScores& scores, Agreement& total) {
  TokenRouting out;
  const Tensor *ids_a = find(a.given.results, scores.indices), *ids_b = find(b.given.results, scores.indices);
  if (!has_ids(scores, ids_a) || !has_ids(scores, ids_b)) {
    out.all_alike = false;
    total.unexplained.push_back({line, scores.indices + " is missing or has another shape or type",
                                 blame_of(!has_ids(scores, ids_a), !has_ids(scores, ids_b))});
    return out;
  }
  const RoutingScores *on_a = decision(a.reference, scores.indices),
                      *on_b = decision(b.reference, scores.indices);
  const SideChoices choices_a(call, a, on_a ? *on_a : scores, *ids_a),
      choices_b(call, b, on_b ? *on_b : scores, *ids_b);
  const auto all_a = ids_a->as<std::int64_t>(), all_b = ids_b->as<std::int64_t>();
  const auto k = static_cast<std::size_t>(scores.k);
  for (std::int64_t t = 0; t < scores.tokens; ++t) {
    const auto of_a = all_a.subspan(static_cast<std::size_t>(t) * k, k),
               of_b = all_b.subspan(static_cast<std::size_t>(t) * k, k);
    ++total.tokens;
    bool same = true;
    for (const std::int64_t id : of_a) {
      const auto at = std::ranges::find(of_b, id);
      same = same && at != of_b.end();
      out.slot_in_b.push_back(at == of_b.end() ? 0 : at - of_b.begin());
    }
    same = same && std::ranges::all_of(
                       of_b, [&](std::int64_t id) { return std::ranges::find(of_a, id) != of_a.end(); });
    out.alike.push_back(same);
    total.alike += same;
    out.in_order.push_back(same && std::ranges::equal(of_a, of_b));
    out.all_in_order = out.all_in_order && out.in_order.back();
    if (same) continue;
    out.all_alike = false;
    std::string why_a, why_b;
    const bool fine_a = choices_a.explained(t, of_a, why_a), fine_b = choices_b.explained(t, of_b, why_b);
    if (fine_a && fine_b) {
      ++total.explained;
      continue;
    }
    ++total.unexplained_tokens;
    const Blame blame = blame_of(!fine_a, !fine_b);
    total.unexplained.push_back(
        {line,
         fmt::format("token {}: A chose {}, B {}: {} {}: {}", t, ids_text(of_a), ids_text(of_b), name(blame),
                     blame == Blame::both ? "are wrong" : "is wrong", !fine_a ? why_a : why_b),
         blame});
  }
  return out;
}

/// The elements of one tensor of which both sides mean the same, and their ratios.
class TensorComparison {
 public:
  TensorComparison(const std::string& name, const std::string& line, const Side& a, const Side& b,
                   const TokenRouting* routing, bool by_order, Agreement& total)
      : name_(name), line_(line), a_(a), b_(b), routing_(routing), by_order_(by_order), total_(total) {}

  void run() {
    const Tensor &of_a = a_.given.results.at(name_), &of_b = b_.given.results.at(name_);
    const auto exact_a = a_.reference.results.find(name_), exact_b = b_.reference.results.find(name_);
    if (exact_a == a_.reference.results.end() || exact_b == b_.reference.results.end()) return;
    const BoundedTensor &ref_a = exact_a->second, &ref_b = exact_b->second;
    if (of_a.shape() != ref_a.shape || of_b.shape() != ref_b.shape) {
      total_.unexplained.push_back({line_, name_ + " has another shape",
                                    blame_of(of_a.shape() != ref_a.shape, of_b.shape() != ref_b.shape)});
      return;
    }
    if (routing_ && !by_token(name_) && !(by_order_ ? routing_->all_in_order : routing_->all_alike)) return;
    const auto tokens = routing_ ? static_cast<std::int64_t>(routing_->alike.size()) : 0;
    const std::int64_t width = tokens > 0 ? of_a.size() / tokens : 0;
    const auto slots = tokens > 0 ? static_cast<std::int64_t>(routing_->slot_in_b.size()) / tokens : 0;
    const bool slotted =
        tokens > 0 && slots > 0 && std::ranges::find(kBySlot, name_) != kBySlot.end() && width % slots == 0;
    for (std::int64_t i = 0; i < of_a.size(); ++i) {
      std::int64_t j = i;
      if (tokens > 0 && by_token(name_)) {
        const std::int64_t t = i / width;
        if (!(by_order_ ? routing_->in_order : routing_->alike)[static_cast<std::size_t>(t)]) continue;
        if (slotted) {
          const std::int64_t part = width / slots, slot = i % width / part;
          const std::int64_t other = routing_->slot_in_b[static_cast<std::size_t>(t * slots + slot)];
          j = t * width + other * part + i % part;
        }
      }
      take(i, of_a[i], of_b[j], ref_a, i, ref_b, j);
    }
    if (beyond_ > 0) {
      total_.unexplained.push_back(
          {line_,
           fmt::format(
               "{} of {} elements of {} differ by more than both bounds, the worst here {}: A {}, B {}, "
               "ratio {:.3g}: {} {}",
               beyond_, of_a.size(), name_, coordinates(worst_at_, of_a.shape()), shown_number(worst_a_),
               shown_number(worst_b_), worst_, name(blame()),
               blame() == Blame::both ? "are wrong" : "is wrong"),
           blame()});
    }
  }

 private:
  Blame blame() const { return blame_of(wrong_a_, wrong_b_); }

  void take(std::int64_t index, double a, double b, const BoundedTensor& ref_a, std::int64_t i,
            const BoundedTensor& ref_b, std::int64_t j) {
    const auto at_a = static_cast<std::size_t>(i), at_b = static_cast<std::size_t>(j);
    const double bound_a = ref_a.bound[at_a], bound_b = ref_b.bound[at_b];
    // Where the reference is not finite each side may hold what is not finite either.
    const bool finite = std::isfinite(ref_a.value[at_a]);
    const double ratio = finite ? value_ratio(a, b, bound_a + bound_b) : 0.0;
    RatioDistribution& d = total_.tensors[name_];
    ++d.elements;
    d.differing += !(a == b || (std::isnan(a) && std::isnan(b)));
    d.ratios.push_back(static_cast<float>(ratio));
    if (d.worst_place.empty() || ratio > d.worst) {
      d.worst = ratio;
      d.worst_place = name_ + coordinates(index, ref_a.shape);
      d.worst_a = a;
      d.worst_b = b;
      d.worst_line = line_;
    }
    const bool off_a = value_ratio(a, ref_a.value[at_a], bound_a) > 1.0,
               off_b = value_ratio(b, ref_b.value[at_b], bound_b) > 1.0;
    const bool beyond = ratio > 1.0 || (!finite && (off_a || off_b));
    if (!beyond) return;
    ++d.beyond;
    ++beyond_;
    if (beyond_ == 1 || ratio > worst_) {
      worst_ = ratio;
      worst_at_ = index;
      worst_a_ = a;
      worst_b_ = b;
    }
    wrong_a_ = wrong_a_ || off_a;
    wrong_b_ = wrong_b_ || off_b;
  }

  const std::string &name_, &line_;
  const Side &a_, &b_;
  const TokenRouting* routing_;
  bool by_order_;
  Agreement& total_;
  std::int64_t beyond_ = 0, worst_at_ = 0;
  double worst_ = 0.0, worst_a_ = 0.0, worst_b_ = 0.0;
  bool wrong_a_ = false, wrong_b_ = false;
};

/// Of ids that were replayed there is nothing to compare but their copy; the load of tokens that went
/// elsewhere, and a loss and gradients made from it, are left out with the sums.
bool has_shared_statistics(const Call& call) {
  return call.component != Component::mlp && parse_moe_config(call.config).has_load_loss();
}

}  // namespace

std::string_view name(Blame blame) {
  constexpr std::array<std::string_view, 4> names{"neither", "A", "B", "A and B"};
  return names[static_cast<std::size_t>(blame)];
}

double RatioDistribution::quantile(double share) const {
  if (ratios.empty()) return 0.0;
  std::vector<float> sorted = ratios;
  const auto at =
      std::min(static_cast<std::size_t>(share * static_cast<double>(sorted.size())), sorted.size() - 1);
  std::ranges::nth_element(sorted, sorted.begin() + static_cast<std::ptrdiff_t>(at));
  return static_cast<double>(sorted[at]);
}

double Agreement::worst_ratio() const {
  double worst = 0.0;
  for (const auto& entry : tensors) worst = std::max(worst, entry.second.worst);
  return worst;
}

void compare(const Call& call, const std::string& line, const AgreementSide& a, const AgreementSide& b,
             Agreement& total) {
  ++total.calls;
  const Call call_a = as_judged(call, a.products), call_b = as_judged(call, b.products);
  ReferenceResults for_a(call_a), for_b(call_b);
  const Side side_a{a, for_a.on_routing_of(a.results)}, side_b{b, for_b.on_routing_of(b.results)};
  std::optional<TokenRouting> routing;
  bool all_alike = true;
  for (const RoutingScores& scores : for_a.own().routing) {
    routing = compare_routing(call, line, side_a, side_b, scores, total);
    all_alike = all_alike && routing->all_alike;
  }
  // Several decisions follow from each other; after the first that differs nothing can be held together.
  const bool several = for_a.own().routing.size() > 1;
  if (several && !all_alike) return;
  if (routing && routing->alike.empty() && !all_alike) return;
  const TokenRouting* tokens = several || !routing ? nullptr : &*routing;
  for (const auto& [name, tensor] : a.results) {
    if (name.starts_with("outputs/indices") || !find(b.results, name)) continue;
    if (!all_alike && name.starts_with("grads/") && has_shared_statistics(call)) continue;
    // The weights' cotangents are given slot by slot, so that what comes back depends on the slots' order.
    const bool by_order = name.starts_with("grads/") && find(call.tensors, "cotangents/weights");
    TensorComparison(name, line, side_a, side_b, tokens, by_order, total).run();
  }
}

std::string summary_line(const Agreement& agreement) {
  const auto percent = [&](std::int64_t tokens) {
    return 100.0 * static_cast<double>(tokens) /
           static_cast<double>(std::max<std::int64_t>(agreement.tokens, 1));
  };
  const std::string routing =
      agreement.tokens == 0
          ? "no experts were chosen"
          : fmt::format("{:.4g} % of tokens route alike, {:.3g} % differ explainably, {} unexplained",
                        percent(agreement.alike), percent(agreement.explained), agreement.unexplained_tokens);
  const double worst = agreement.worst_ratio();
  return fmt::format("agree: {}; values {} bounds (worst {:.3g})", routing,
                     worst <= 1.0 ? "within" : "beyond", worst);
}

}  // namespace moeref
