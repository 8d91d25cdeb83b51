// The order in which a port adds up the terms of a sum, recovered from its results alone, as FPRev does (Xie,
// Gao, Yang and Chen, "FPRev: Revealing the Order of Floating-Point Summation", 2024).
//
// With M at term i, -M at term j and 1 everywhere else, M so large that it absorbs every 1 added to it, the
// ones that come together with M or -M before these two meet are lost. The result counts the others: n minus
// the number of terms under the node where i and j meet. These numbers for all pairs give the tree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moeref {

/// A term, or an addition of the children: of two, or of more at once, as tensor cores add.
struct SummationTree {
  std::int64_t term = -1;  ///< of a leaf
  std::vector<SummationTree> children = {};

  bool leaf() const { return children.empty(); }
  std::int64_t terms() const;
  std::int64_t first() const;  ///< the lowest term below
};

/// Symmetric [n, n]: how many terms lie under the node where i and j meet.
class MeetingSizes {
 public:
  explicit MeetingSizes(std::int64_t terms) : terms_(terms), size_(static_cast<std::size_t>(terms * terms)) {}
  std::int64_t terms() const { return terms_; }
  std::int64_t at(std::int64_t i, std::int64_t j) const {
    return size_[static_cast<std::size_t>(i * terms_ + j)];
  }
  void set(std::int64_t i, std::int64_t j, std::int64_t size) {
    size_[static_cast<std::size_t>(i * terms_ + j)] = size_[static_cast<std::size_t>(j * terms_ + i)] = size;
  }

 private:
  std::int64_t terms_;
  std::vector<std::int64_t> size_;
};

/// The tree that these numbers are of. Throws std::runtime_error, saying why, for numbers that are of none:
/// the sums have no fixed order, or M was not absorbed as it should be.
SummationTree recover_tree(const MeetingSizes& sizes);

/// "((0 1) (2 3))"; of more than two children at once "{0 1 2 3}".
std::string to_string(const SummationTree& tree);

/// In words where it has a regular shape: "sequential", "pairwise", "4 lanes, each sequential, then
/// pairwise", "blocks of 16, each sequential, then sequential", "chunks of 8 at once, one after the other".
/// Else empty.
std::string in_words(const SummationTree& tree);

}  // namespace moeref
