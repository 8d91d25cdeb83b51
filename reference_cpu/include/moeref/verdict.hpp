// How agreement is decided (VERDICTS.md): derived bounds for values, certified or explainable selections for
// routing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"
#include "moeref/reference.hpp"

namespace moeref {

enum class Verdict : std::uint8_t { pass, ambiguous, waived, not_supported, fail, hung, crashed };

/// "PASS", "AMBIGUOUS", "WAIVED", "NOT_SUPPORTED", "FAIL", "HUNG", "CRASHED".
std::string_view name(Verdict verdict);

/// The worse of two, in the order of the enumeration.
Verdict worse(Verdict a, Verdict b);

/// The verdict on one tensor of one case. r = |value - reference| / bound; r <= 1 passes.
struct TensorVerdict {
  std::string tensor;  ///< "outputs/y"
  Verdict verdict = Verdict::pass;
  double ratio = 0.0;  ///< the largest r; infinity for a wrong exact value, NaN or a wrong shape
  double own_ratio =
      0.0;  ///< r on the candidate's own earlier stages ("stages/..."), where it shows them; else r
  /// r against the error that K additions probably make, sqrt(K) in place of K (VERDICTS.md, "The probable
  /// ratio"); a warning when far above 1. Equal to `ratio` where no model is claimed.
  double probable_ratio = 0.0;
  std::int64_t elements = 0;
  std::int64_t unbounded =
      0;  ///< elements whose bound is infinite, so that any value passes; the tensor is then AMBIGUOUS
  std::int64_t index = -1;  ///< row-major index of the worst element, -1 where there is none
  double value = 0.0, reference = 0.0, bound = 0.0;
  std::string
      finding;  ///< one line in words: "missing", "shape [3] where [4] belongs", "token 7: ids {1, 2}, ..."
};

struct CaseVerdict {
  Verdict verdict = Verdict::pass;
  std::vector<TensorVerdict>
      tensors;              ///< in stage order, so that the first failing one is the first divergence
  std::int64_t tokens = 0;  ///< routed tokens judged
  std::int64_t uncertified_tokens = 0;  ///< an honest port could choose differently there
  std::int64_t own_certified_tokens =
      0;  ///< of these, the choice is exactly what the candidate's own logits or scores lead to
  bool shows_scores = false;     ///< whether it gave logits or scores from which that could be seen
  std::int64_t tied_tokens = 0;  ///< this one chose otherwise among exactly equal scores, which is left open
  std::int64_t ambiguous_tokens =
      0;  ///< this one chose otherwise, explainably, and nothing it shows proves it

  /// The first tensor that fails on the candidate's own earlier stages; if there is none, the first that
  /// fails. Null if none does.
  const TensorVerdict* first_failure() const;
  double worst_ratio() const;
};

struct JudgeOptions {
  /// Largest share of a case's tokens that may be ambiguous (one token always may): beyond it, selection is
  /// as good as unchecked. A judge of many cases keeps a far lower ceiling over all of them.
  double ambiguity_ceiling = 0.20;
  /// The candidate declares that among equal scores it takes the lowest id: another choice is then wrong.
  bool lowest_id_first = false;
};

/// Judges what an implementation or a file gave for a call: the routing first, then everything else on that
/// routing. Tensors that the call's signature requires must be there; "stages/..." are judged where present.
CaseVerdict judge(const Call& call, const NamedTensors& candidate, const JudgeOptions& options = {});

/// Position of a tensor in the order of the stages: logits, scores, selection, weights, load, aux loss,
/// permutation, up projection, activation, down projection, combine, shared, output, then each gradient.
int stage_order(std::string_view tensor);

}  // namespace moeref
