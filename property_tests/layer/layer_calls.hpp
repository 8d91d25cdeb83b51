// What the properties of experts, MLP and layer share: the parts of their calls, arrangements of descriptors,
// and sums of answers.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "property_tests/suite/answer.hpp"
#include "reference_cpu/call/tokens.hpp"

namespace moeref {

inline constexpr std::array<std::string_view, 4> kExpertTensors{"gate_and_up_projs", "down_projs",
                                                                "gate_up_proj_bias", "down_proj_bias"};

/// "grads/experts.down_projs" in a layer, "grads/down_projs" where the experts stand alone.
std::string expert_tensor(Component component, std::string_view group, std::string_view tensor);

/// Ids [T k] that the balanced gate deals without noise.
std::vector<double> dealt_ids(const Call& call);

/// Ids [T k] as given, replayed, dealt or selected; -1 for slots of masked tokens too. Of a replay the slots
/// may have come back in another order.
std::vector<std::int64_t> live_ids(const Answer& answer);

/// Whether any slot of a token is of that expert.
bool meets(const std::vector<std::int64_t>& ids, std::int64_t k, std::int64_t token, std::int64_t expert);

/// Of the call's options the one that every part of it has too: float32_products.
nlohmann::json options_of_products(const Call& call);

/// The call on these tokens in this order. x is [T, D].
Call with_tokens(Call call, std::span<const std::int64_t> order);

/// The call with every token slot given the expert that the answer routed it to; the balanced gate deals the
/// same ones again by itself.
Call replaying(Call call, const Answer& routed);

/// Elements of slice i of the first axis set to f(old value).
void change_slice(Tensor& tensor, std::int64_t i, const std::function<double(double)>& f);

/// All parameters of an expert changed, where the call has them.
void change_expert(Call& call, std::int64_t expert, const std::function<double(double)>& f);

/// Throws Discarded unless every token's selection is decided.
void require_decided(const Answer& answer);

/// Row for row equal within bounds, for rows that `wanted` accepts.
void expect_rows(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text,
                 const std::function<bool(std::int64_t)>& wanted);

/// A slice of a tensor is exactly zero.
void expect_zero_slice(const Answer& a, std::string_view tensor, std::int64_t slice, std::string_view text);

/// Every output and gradient of two answers: equal, or within both bounds.
void expect_all_same(const Answer& a, const Answer& b, std::string_view text, bool exact = false);

/// sum_i factor_i answer_i[tensor], which must outlive it.
class Combination {
 public:
  Combination& add(const Answer& answer, double factor = 1.0) {
    terms_.push_back({&answer, factor});
    return *this;
  }
  /// answer[tensor] is that sum: within all bounds, or exactly.
  void expect(const Answer& answer, std::string_view tensor, std::string_view text, bool exact = false) const;

 private:
  struct Term {
    const Answer* answer;
    double factor;
  };
  std::vector<Term> terms_;
};

/// x [T, D], and experts that do not depend on rounding: those given, or dealt in turn.
void arrange_given_routing(Descriptor& d);

/// x [T, D], and experts that stay with their tokens: those given.
void arrange_replayed_routing(Descriptor& d);

/// x [T, D], and the implementation's own selection where it leaves no choice.
void arrange_decided_routing(Descriptor& d);

/// Small integers and relu2 in fp32 or fp64, routed as above with weights that are powers of two: every sum
/// is exact in any order, so that equal means equal bits.
void arrange_exact(Descriptor& d);

/// fp32 unless it is fp64: where a statement is about powers of two, which 16-bit types may flush or
/// overflow.
void arrange_wide(Descriptor& d);

/// Every token is real and has one expert, which rectifies and adds nothing, so that y is a product of
/// products. Of float16, whose range is small, bfloat16 takes the place.
void arrange_one_plain_expert(Descriptor& d);

}  // namespace moeref
