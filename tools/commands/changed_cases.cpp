#include "tools/commands/changed_cases.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "golden/catalogue/data_choice.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/call/config_fields.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// The extents that are lengths of rows.
constexpr std::array<const char*, 5> kRowExtents{"dim", "inter_dim", "moe_inter_dim",
                                                 "shared_expert_inter_dim", "moe_latent_size"};

/// Settings of a profile without auxiliary losses.
const std::array<std::pair<std::string, std::string>, 3> kNoLosses{
    {{"aux_loss_coeff", "0.0"}, {"batch_loss_coeff", "0.0"}, {"global_loss_coeff", "0.0"}}};

/// JSON where it is JSON, else the text itself: 0.5, true, null, minus_infinity.
json value_of(const std::string& text) {
  json value = json::parse(text, nullptr, false);
  return value.is_discarded() ? json(text) : value;
}

template <typename Config>
bool has_field(std::string_view wanted) {
  bool found = false;
  const Config defaults;
  visit_config_fields(defaults, [&](const auto& row, const auto&) { found = found || row.name == wanted; });
  return found;
}

bool takes(Component component, std::string_view field) {
  return component == Component::mlp ? has_field<MLPConfig>(field) : has_field<MoEConfig>(field);
}

json full_config(const CaseSpec& spec) {
  return spec.component == Component::mlp ? full_json(parse_mlp_config(spec.config))
                                          : full_json(parse_moe_config(spec.config));
}

void align_rows(CaseSpec& spec, std::int64_t bytes) {
  const json full = full_config(spec);
  const json compute = full.value("expert_compute_dtype", json());
  const json& dtype = compute.is_null() ? full.at("dtype") : compute;
  const std::int64_t size = size_of(parse_dtype(dtype.get<std::string>()));
  const std::int64_t step = std::max<std::int64_t>(bytes / size, 1);
  for (const char* extent : kRowExtents)
    if (const auto it = full.find(extent); it != full.end() && it->is_number_integer())
      spec.config[extent] = (it->get<std::int64_t>() + step - 1) / step * step;
}

CaseSpec changed_case(CaseSpec spec, const CaseChanges& changes) {
  std::string set;
  for (const auto& [field, value] : changes.fields) {
    if (!takes(spec.component, field)) continue;
    // A default that is not spelt out stays so.
    if (!spec.config.contains(field) && full_config(spec).at(field) == value_of(value)) continue;
    spec.config[field] = value_of(value);
    set += fmt::format("{}{} = {}", set.empty() ? "" : ", ", field, value);
  }
  if (changes.align > 1) align_rows(spec, changes.align);
  if (!changes.mask.empty()) {
    const DataChoices mask = parse_data_choices({{"mask", changes.mask}});
    spec.data.insert_or_assign(DataRole::mask, mask.at(DataRole::mask));
  }
  if (changes.forward_alone) spec.backward = false;
  if (changes.evaluation && spec.component != Component::bias_update &&
      (spec.component == Component::gate || spec.component == Component::moe))
    spec.options["training"] = false;
  full_config(spec);  // whether there can be such a layer
  if (!set.empty()) spec.note += (spec.note.empty() ? "" : " ") + fmt::format("Set: {}.", set);
  spec.flags.clear();
  return spec;
}

}  // namespace

std::pair<std::string, std::string> parse_setting(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw InputError("--set is '" + text + "': want FIELD=VALUE");
  std::string field = text.substr(0, equals);
  if (!has_field<MoEConfig>(field) && !has_field<MLPConfig>(field))
    throw InputError("--set names no field of a config: '" + field + "' (moeref list fields)");
  return {std::move(field), text.substr(equals + 1)};
}

const std::vector<Profile>& profiles() {
  static const std::vector<Profile> all{
      {"inference",
       "forward alone, outside training, no mask, weights after the down projection, rows of 16 bytes",
       {{{"apply_router_weight_after_down", "true"}, kNoLosses[0], kNoLosses[1], kNoLosses[2]},
        16,
        "absent",
        true,
        true}},
      {"megatron",
       "groups scored by the sum of k / g and discarded as minus infinity, loss scores normalised with k = 1",
       {{{"group_score", "topk_over_g_sum"},
         {"discarded_groups", "minus_infinity"},
         {"norm_at_top1", "scores"}},
        16}},
      {"torchtitan",
       "weights after the down projection, experts in bfloat16, discarded groups minus infinity, no "
       "auxiliary "
       "loss in the layer",
       {{{"apply_router_weight_after_down", "true"},
         {"expert_compute_dtype", "bfloat16"},
         {"discarded_groups", "minus_infinity"},
         {"norm_at_top1", "weights_and_scores"},
         kNoLosses[0],
         kNoLosses[1],
         kNoLosses[2]},
        16}},
      {"transformers",
       "weights after the down projection, discarded groups minus infinity, k = 1 normalised, no mask and no "
       "auxiliary loss in the layer",
       {{{"apply_router_weight_after_down", "true"},
         {"discarded_groups", "minus_infinity"},
         {"norm_at_top1", "weights_and_scores"},
         kNoLosses[0],
         kNoLosses[1],
         kNoLosses[2]},
        1,
        "absent"}},
  };
  return all;
}

CaseChanges with_profile(const std::string& profile, CaseChanges own) {
  if (profile.empty()) return own;
  std::string names;
  for (const Profile& one : profiles()) {
    names += (names.empty() ? "" : ", ") + std::string(one.name);
    if (one.name != profile) continue;
    CaseChanges out = one.changes;
    out.fields.insert(out.fields.end(), own.fields.begin(), own.fields.end());  // the later one counts
    if (own.align > 1) out.align = own.align;
    if (!own.mask.empty()) out.mask = own.mask;
    return out;
  }
  throw InputError("--profile is '" + profile + "': want one of " + names);
}

ChangedCases changed(std::vector<CaseSpec> cases, const CaseChanges& changes) {
  if (changes.empty()) return {std::move(cases), {}};
  if (!changes.mask.empty()) parse_data_choices({{"mask", changes.mask}});  // a kind that there is none of
  ChangedCases out;
  for (CaseSpec& spec : cases) {
    const std::string name = full_name(spec);
    try {
      out.cases.push_back(changed_case(std::move(spec), changes));
    } catch (const InputError& error) {
      out.left_out.push_back(name + ": " + error.what());
    }
  }
  if (out.cases.empty()) throw InputError("no case can be changed so: " + out.left_out.front());
  return out;
}

}  // namespace moeref
