// Lists of cases that must be judged and PASS (--must-pass): what a port declares it cannot do is a failure
// there.
//
// A list is a text: one case name a line, followed by `grads` where its gradients must be judged too; #
// begins a comment. core, training and expert_parallelism are golden/must_pass/*.txt, made by the rules below
// from the recipes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "golden/catalogue/case_builder.hpp"
#include "tools/report/report.hpp"

namespace moeref {

struct MustPass {
  std::string case_name;   ///< "gate__sigmoid"
  bool gradients = false;  ///< must be judged too
};

struct MustPassList {
  std::string title;  ///< as it was given
  std::vector<MustPass> cases;
};

/// core, expert_parallelism, training.
std::vector<std::string_view> must_pass_names();

/// One of ours by its name, or a file. Throws InputError naming the file and line, or listing the names.
MustPassList read_must_pass(const std::string& name_or_file);

/// A finding for each case of the list that was not judged or did not PASS.
void apply_must_pass(const MustPassList& list, Report& report);

/// The text of one of our lists, from the recipes.
/// core: gate, mlp, experts and moe in float32 on one rank, where every honest port selects the same experts.
/// training: the same in float32 and bfloat16 with gradients, aux_loss and bias_update.
/// expert_parallelism: experts and moe over several ranks, with gradients.
std::string must_pass_text(std::string_view name, const std::vector<CaseSpec>& recipes);

}  // namespace moeref
