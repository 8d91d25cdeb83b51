// Cases of the catalogue, or a layer's, under other rules: `moeref generate --set FIELD=VALUE --align 16
// ...`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "golden/catalogue/case_builder.hpp"

namespace moeref {

/// What is changed in every case that has it.
struct CaseChanges {
  std::vector<std::pair<std::string, std::string>> fields = {};  ///< of the config: name, value
  std::int64_t align = 1;      ///< bytes of which the rows of activations and weights are multiples
  std::string mask = {};       ///< a kind of mask; empty: as the case has it
  bool forward_alone = false;  ///< no gradients
  bool evaluation = false;     ///< outside training

  bool empty() const { return fields.empty() && align == 1 && mask.empty() && !forward_alone && !evaluation; }
};

/// "norm_eps=1e-6". Throws InputError naming the text that is no FIELD=VALUE, or a field that no config has.
std::pair<std::string, std::string> parse_setting(const std::string& text);

/// The named sets of changes ("inference", "megatron", ...), with what each stands for.
struct Profile {
  std::string_view name, stands_for;
  CaseChanges changes;
};
const std::vector<Profile>& profiles();

/// `own` over the profile's changes. Throws InputError naming the profile that there is none of.
CaseChanges with_profile(const std::string& profile, CaseChanges own);

struct ChangedCases {
  std::vector<CaseSpec> cases;
  std::vector<std::string>
      left_out;  ///< "gate__softmax_groups_ignored: config field ..." for each impossible one
};

/// The cases with the changes, each named in its note. A case whose component has no such field stays as it
/// is; one that the changes make impossible is left out. Flags of changed cases are dropped: what they catch
/// may have changed.
ChangedCases changed(std::vector<CaseSpec> cases, const CaseChanges& changes);

}  // namespace moeref
