#include "tools/judging/summation_tree.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <stdexcept>

namespace moeref {
namespace {

using TermList = std::vector<std::int64_t>;

class Recovery {
 public:
  explicit Recovery(const MeetingSizes& sizes) : sizes_(sizes) {}

  /// The subtree whose leaves these are, all of them.
  SummationTree tree(const TermList& terms) const {
    const std::int64_t pivot = terms.front();
    std::map<std::int64_t, TermList> met;  // with the pivot, by the size of the node where they meet
    for (const std::int64_t j : terms)
      if (j != pivot) met[sizes_.at(pivot, j)].push_back(j);
    SummationTree out{pivot};
    std::int64_t below = 1;
    for (const auto& [size, others] : met) {
      below += static_cast<std::int64_t>(others.size());
      if (size != below)
        throw std::runtime_error(fmt::format("terms {} and {} meet over {} terms, and {} are below that",
                                             pivot, others.front(), size, below));
      SummationTree node;
      node.children.push_back(std::move(out));
      add_children(node, others, size);
      out = std::move(node);
    }
    return out;
  }

 private:
  /// The other children of a node over `size` terms; those of one child meet below the node.
  void add_children(SummationTree& node, TermList terms, std::int64_t size) const {
    while (!terms.empty()) {
      TermList own{terms.front()}, rest;
      for (std::size_t i = 1; i < terms.size(); ++i)
        (sizes_.at(own.front(), terms[i]) < size ? own : rest).push_back(terms[i]);
      node.children.push_back(tree(own));
      terms = std::move(rest);
    }
  }

  const MeetingSizes& sizes_;
};

/// `outer` is the tree with a leaf in place of each subtree of `size` terms, numbered as part() numbers its
/// terms; `inner` are these subtrees. False unless every part of the terms is a subtree.
bool contract(const SummationTree& tree, std::int64_t size, std::int64_t (*part)(std::int64_t, std::int64_t),
              std::int64_t by, SummationTree& outer, std::vector<SummationTree>& inner) {
  const std::int64_t first = part(tree.first(), by);
  if (tree.terms() == size) {
    TermList all;
    const auto collect = [&](auto&& self, const SummationTree& t) -> void {
      if (t.leaf()) all.push_back(t.term);
      for (const SummationTree& child : t.children) self(self, child);
    };
    collect(collect, tree);
    if (!std::ranges::all_of(all, [&](std::int64_t term) { return part(term, by) == first; })) return false;
    outer = {first};
    inner.push_back(tree);
    return true;
  }
  if (tree.terms() < size) return false;
  outer = {};
  for (const SummationTree& child : tree.children) {
    outer.children.emplace_back();
    if (!contract(child, size, part, by, outer.children.back(), inner)) return false;
  }
  return true;
}

std::int64_t block_of(std::int64_t term, std::int64_t block) { return term / block; }
std::int64_t lane_of(std::int64_t term, std::int64_t lanes) { return term % lanes; }

/// The same tree with its terms numbered in their order.
SummationTree renumbered(const SummationTree& tree) {
  TermList all;
  const auto collect = [&](auto&& self, const SummationTree& t) -> void {
    if (t.leaf()) all.push_back(t.term);
    for (const SummationTree& child : t.children) self(self, child);
  };
  collect(collect, tree);
  std::ranges::sort(all);
  const auto number = [&](auto&& self, const SummationTree& t) -> SummationTree {
    SummationTree out;
    if (t.leaf()) out.term = std::ranges::lower_bound(all, t.term) - all.begin();
    for (const SummationTree& child : t.children) out.children.push_back(self(self, child));
    return out;
  };
  return number(number, tree);
}

/// One running sum that takes the same number of terms, all leaves, at every step: 1, or more at once.
std::string as_chain(const SummationTree& tree) {
  std::vector<TermList> steps;  // the last first
  const SummationTree* at = &tree;
  while (!at->leaf()) {
    const SummationTree* next = nullptr;
    TermList taken;
    for (const SummationTree& child : at->children) {
      if (child.leaf())
        taken.push_back(child.term);
      else if (next)
        return "";
      else
        next = &child;
    }
    std::ranges::sort(taken);
    steps.push_back(std::move(taken));
    if (!next) break;
    at = next;
  }
  std::ranges::reverse(steps);
  if (steps.size() == 1)
    return steps[0].size() == 2 ? "sequential" : fmt::format("all {} at once", steps[0].size());
  const std::size_t each = steps[1].size();
  const bool even = std::ranges::all_of(steps.begin() + 1, steps.end() - 1,
                                        [&](const TermList& s) { return s.size() == each; }) &&
                    steps.back().size() <= each && steps[0].size() <= each + 1;
  if (!even) return "";
  const auto ordered = [&](bool ascending) {
    for (std::size_t i = 1; i < steps.size(); ++i)
      if (ascending ? steps[i - 1].back() > steps[i].front() : steps[i - 1].front() < steps[i].back())
        return false;
    return true;
  };
  const char* order = ordered(true)    ? ""
                      : ordered(false) ? ", from the last term"
                                       : ", in an order of its own";
  return each == 1 && steps[0].size() == 2
             ? fmt::format("sequential{}", order)
             : fmt::format("chunks of {} at once, one after the other{}", each, order);
}

/// Halves, and halves of these; odd numbers of terms may be divided either way.
bool is_pairwise(const SummationTree& tree) {
  if (tree.leaf()) return true;
  if (tree.children.size() != 2) return false;
  const SummationTree &a = tree.children[0], &b = tree.children[1];
  const std::int64_t n = a.terms(), m = b.terms();
  const std::int64_t low = std::min(a.first(), b.first());
  const SummationTree& left = a.first() == low ? a : b;
  const SummationTree& right = &left == &a ? b : a;
  return std::abs(n - m) <= 1 && right.first() == low + left.terms() && is_pairwise(a) && is_pairwise(b);
}

std::string words(const SummationTree& tree, int depth) {
  if (tree.leaf()) return "nothing to add";
  if (tree.terms() > 3 && is_pairwise(tree)) return "pairwise";
  if (std::string chain = as_chain(tree); !chain.empty()) return chain;
  if (depth == 0) return "";
  const std::int64_t n = tree.terms();
  const auto divided = [&](std::int64_t size, auto part, std::int64_t by, const std::string& title) {
    SummationTree outer;
    std::vector<SummationTree> inner;
    if (!contract(tree, size, part, by, outer, inner)) return std::string();
    const std::string each = words(renumbered(inner.front()), depth - 1);
    for (const SummationTree& one : inner)
      if (words(renumbered(one), depth - 1) != each) return std::string();
    const std::string then = words(outer, depth - 1);
    if (each.empty() || then.empty()) return std::string();
    return fmt::format("{}, each {}, then {}", title, each, then);
  };
  for (std::int64_t lanes = 2; lanes <= n / 2; ++lanes)
    if (n % lanes == 0)
      if (std::string text = divided(n / lanes, lane_of, lanes, fmt::format("{} lanes", lanes));
          !text.empty())
        return text;
  for (std::int64_t block = 2; block <= n / 2; ++block)
    if (n % block == 0)
      if (std::string text = divided(block, block_of, block, fmt::format("blocks of {}", block));
          !text.empty())
        return text;
  return "";
}

}  // namespace

std::int64_t SummationTree::terms() const {
  std::int64_t sum = leaf() ? 1 : 0;
  for (const SummationTree& child : children) sum += child.terms();
  return sum;
}

std::int64_t SummationTree::first() const {
  if (leaf()) return term;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (const SummationTree& child : children) least = std::min(least, child.first());
  return least;
}

SummationTree recover_tree(const MeetingSizes& sizes) {
  TermList all;
  for (std::int64_t i = 0; i < sizes.terms(); ++i) all.push_back(i);
  if (all.empty()) throw std::runtime_error("there are no terms");
  return Recovery(sizes).tree(all);
}

std::string to_string(const SummationTree& tree) {
  if (tree.leaf()) return std::to_string(tree.term);
  std::string out;
  for (const SummationTree& child : tree.children) out += (out.empty() ? "" : " ") + to_string(child);
  return tree.children.size() == 2 ? "(" + out + ")" : "{" + out + "}";
}

std::string in_words(const SummationTree& tree) {
  constexpr int kLevels = 2;  // lanes within blocks, and the like
  return words(tree, kLevels);
}

}  // namespace moeref
