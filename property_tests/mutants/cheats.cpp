// Implementations that keep what an earlier call gave, or that know when they are looked at.
#include <functional>
#include <map>
#include <string>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

std::string bits_of(const Tensor& tensor, std::size_t most = static_cast<std::size_t>(-1)) {
  const auto bytes = tensor.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), std::min(most, bytes.size())};
}

/// The first answer to a call of each fingerprint is given to every later one.
template <std::string (*Fingerprint)(const Call&)>
class Kept final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    const auto [at, added] = kept_.try_emplace(std::hash<std::string>{}(Fingerprint(call)));
    if (added) at->second = sound_.run(call);
    return at->second;
  }

 private:
  std::map<std::size_t, NamedTensors> kept_;
};

std::string of_sizes(const Call& call) { return sizes_of(call); }

std::string of_inputs(const Call& call) {
  std::string out = sizes_of(call);
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with("inputs/")) out += bits_of(tensor);
  return out;
}
std::string of_parameters(const Call& call) {
  std::string out = sizes_of(call);
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/")) out += bits_of(tensor);
  return out;
}
std::string of_all_but_mask(const Call& call) {
  std::string out = sizes_of(call);
  for (const auto& [name, tensor] : call.tensors)
    if (name.find("mask") == std::string::npos) out += bits_of(tensor);
  return out;
}
std::string of_all_but_cotangents(const Call& call) {
  std::string out = sizes_of(call);
  for (const auto& [name, tensor] : call.tensors)
    if (!name.starts_with("cotangents/")) out += bits_of(tensor);
  return out;
}
std::string of_all_but_config(const Call& call) {
  std::string out = std::string(name(call.component)) + (call.backward ? "b" : "f");
  for (const auto& [name, tensor] : call.tensors) out += name + to_string(tensor.shape()) + bits_of(tensor);
  return out;
}
std::string of_first_values(const Call& call) {
  std::string out = sizes_of(call);
  for (const auto& [name, tensor] : call.tensors) out += bits_of(tensor, 16);
  return out;
}
std::string of_address(const Call& call) {
  const Tensor* x = find(call.tensors, facts(call.component).token_input);
  return sizes_of(call) + (x ? std::to_string(reinterpret_cast<std::uintptr_t>(x->bytes().data())) : "");
}

/// The right answer but for every Nth call of the same sizes as the one before, which gets that one's answer.
template <int N>
class LastAnswerAgain final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    const std::string sizes = sizes_of(call);
    if (sizes == sizes_ && ++repeated_ % N == 0) return last_;
    sizes_ = sizes;
    return last_ = sound_.run(call);
  }

 private:
  std::string sizes_;
  NamedTensors last_;
  int repeated_ = 0;
};

/// Elements of one result that were not written keep what the last call of that shape had there.
template <typename IsWritten>
NamedTensors unwritten(NamedTensors results, std::string_view name, Tensor& last, IsWritten&& is_written) {
  const auto found = results.find(name);
  if (found == results.end()) return results;
  const Tensor own = found->second;
  if (own.shape() == last.shape())
    change(results, name, [&](std::int64_t i, double v) { return is_written(i) ? v : last[i]; });
  last = found->second;
  return results;
}

/// Gradients of the weights of absent slots are left as the last call had them.
class AbsentSlotsKeepGradient final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!is(call, C::experts)) return sound_.run(call);
    const Tensor& ids = call.tensors.at("inputs/indices");
    return unwritten(sound_.run(call), "grads/weights", last_, [&](std::int64_t i) { return ids[i] >= 0.0; });
  }

 private:
  Tensor last_;
};

class MaskedRowsKeepOutput final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!is(call, C::experts)) return sound_.run(call);
    const std::int64_t dim = call.tensors.at("inputs/x").extent(1);
    return unwritten(sound_.run(call), "outputs/y", last_,
                     [&](std::int64_t i) { return is_live(call, i / dim); });
  }

 private:
  Tensor last_;
};

/// The gradient buffer of experts without tokens is not cleared.
class EmptyExpertsKeepGradient final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!has_weights(call)) return sound_.run(call);
    const Tensor& ids = call.tensors.at("inputs/indices");
    std::vector<bool> has_rows(static_cast<std::size_t>(size(call, "n_routed_experts")));
    for (std::int64_t i = 0; i < ids.size(); ++i)
      if (ids[i] >= 0.0 && is_live(call, i / ids.extent(1)))
        has_rows[static_cast<std::size_t>(ids[i])] = true;
    const Tensor& down = call.tensors.at("params/down_projs");
    const std::int64_t block = down.extent(1) * down.extent(2);
    return unwritten(sound_.run(call), "grads/down_projs", last_,
                     [&](std::int64_t i) { return has_rows[static_cast<std::size_t>(i / block)]; });
  }

 private:
  Tensor last_;
};

/// Gradients are added to those of the last call of the same sizes.
class GradientsAddUp final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    if (!call.backward) return out;
    const std::string sizes = sizes_of(call);
    if (sizes == sizes_)
      for (auto& [name, tensor] : out)
        if (name.starts_with("grads/"))
          change(out, name, [&, &name = name](std::int64_t i, double g) { return g + last_.at(name)[i]; });
    sizes_ = sizes;
    return last_ = out;
  }

 private:
  std::string sizes_;
  NamedTensors last_;
};

/// One input is that of the first call of these sizes, as in a captured graph.
template <typename Which>
class Captured final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    Call other = call;
    for (auto& [name, tensor] : other.tensors)
      if (Which{}(name)) tensor = kept_.try_emplace(sizes_of(call) + name, tensor).first->second;
    return sound_.run(other);
  }

 private:
  std::map<std::string, Tensor> kept_;
};
struct IsMask {
  bool operator()(const std::string& name) const { return name.find("mask") != std::string::npos; }
};
struct IsCorrection {
  bool operator()(const std::string& name) const { return name.ends_with("e_score_correction_bias"); }
};
struct IsRoutingWeight {
  bool operator()(const std::string& name) const { return name == "inputs/weights"; }
};

/// The scale of the loss's gradient is that of the call before.
class LastBackwardScale final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!is_one_of(call, {C::gate, C::moe})) return sound_.run(call);
    Call other = call;
    if (scale_ > 0.0) other.options["aux_loss_backward_scale"] = scale_;
    scale_ = parse_call_options(call.options).aux_loss_backward_scale;
    return sound_.run(other);
  }

 private:
  double scale_ = 0.0;
};

/// The load is read before the counts of this call have arrived.
class LoadOfLastCall final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    const auto found = out.find("outputs/expert_load");
    if (found == out.end()) return out;
    const Tensor own = found->second;
    if (last_.shape() == own.shape()) found->second = last_;
    last_ = own;
    return out;
  }

 private:
  Tensor last_;
};

/// Right while it is young.
class TiresAfter50Calls final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    if (++calls_ > 50)
      for (auto& [name, tensor] : out)
        if (is_floating(tensor.dtype())) change(out, name, [](std::int64_t, double v) { return 1.5 * v; });
    return out;
  }

 private:
  int calls_ = 0;
};

/// Routing is kept from the last call whose x began with the same numbers.
class IdsKeptByFirstToken final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!is(call, C::gate) || call.tensors.contains("inputs/replay_indices")) return sound_.run(call);
    const Tensor& x = call.tensors.at("inputs/x");
    const std::string key =
        sizes_of(call) + bits_of(x, static_cast<std::size_t>(x.extent(1) * size_of(x.dtype())));
    const auto found = kept_.find(key);
    Call other = call;
    if (found != kept_.end()) other.tensors["inputs/replay_indices"] = found->second;
    NamedTensors out = sound_.run(other);
    kept_.try_emplace(key, out.at("outputs/indices"));
    return out;
  }

 private:
  std::map<std::string, Tensor> kept_;
};

const std::vector<Component> kMany{C::gate, C::aux_loss, C::mlp, C::experts, C::moe};

Mutant cheat(std::string_view name, std::vector<Component> components, std::string_view does,
             std::string_view first_wrong, std::string_view property,
             std::unique_ptr<Implementation> (*make)(Implementation&)) {
  Mutant out;
  out.name = name;
  out.components = std::move(components);
  out.does = does;
  out.shows = "S";
  out.first_wrong = first_wrong;
  out.property = property;
  out.make = make;
  return out;
}

constexpr std::string_view
    kAny = "outputs/indices outputs/weights outputs/expert_load outputs/aux_loss outputs/y grads/weights",
    kGrads =
        "grads/bias grads/weight grads/x grads/original_scores grads/down_proj_bias grads/down_projs "
        "grads/down_proj.bias grads/down_proj.weight grads/experts.down_proj_bias grads/experts.down_projs "
        "grads/weights grads/shared_experts.down_proj.weight";

Mutant public_bug(Mutant mutant, std::string_view bug, std::string_view source) {
  mutant.bug = bug;
  mutant.source = source;
  return mutant;
}

const Mutant kCheatingMutants[] = {
    cheat("kept_by_sizes", kMany, "the first answer to calls of these sizes is given to all", kAny,
          "linear_down", make_stateful<Kept<of_sizes>>),
    cheat("kept_by_inputs", kMany, "answers are kept by what the inputs hold, whatever the parameters are",
          kAny, "linear_down", make_stateful<Kept<of_inputs>>),
    cheat("kept_by_parameters", kMany,
          "answers are kept by what the parameters hold, whatever the inputs are", kAny, "token_permutation",
          make_stateful<Kept<of_parameters>>),
    cheat("kept_by_all_but_mask", kMany, "answers are kept by everything but the mask", kAny, "",
          make_stateful<Kept<of_all_but_mask>>),
    cheat("kept_by_all_but_cotangents", kMany, "answers are kept by everything but the cotangents", kGrads,
          "linear_cotangent", make_stateful<Kept<of_all_but_cotangents>>),
    cheat("kept_by_all_but_config", kMany, "answers are kept by the tensors, whatever the config says", kAny,
          "linear_coefficient", make_stateful<Kept<of_all_but_config>>),
    cheat("kept_by_first_values", kMany, "answers are kept by the first 16 bytes of each tensor", kAny,
          "linear_down", make_stateful<Kept<of_first_values>>),
    cheat("kept_by_address", kMany, "answers are kept by the address of x", kAny, "",
          make_stateful<Kept<of_address>>),
    cheat("last_answer_once_in_3_calls", kMany,
          "of calls with the same sizes every third gets the answer of the one before", kAny, "",
          make_stateful<LastAnswerAgain<3>>),
    cheat("last_answer_once_in_10_calls", kMany,
          "of calls with the same sizes every tenth gets the answer of the one before", kAny, "",
          make_stateful<LastAnswerAgain<10>>),
    cheat("absent_slots_keep_gradient", kExperts,
          "gradients of the weights of absent slots are those of the last call", "grads/weights", "",
          make_stateful<AbsentSlotsKeepGradient>),
    cheat("masked_rows_keep_output", kExperts, "rows of masked tokens are left as the last call had them",
          "outputs/y", "", make_stateful<MaskedRowsKeepOutput>),
    public_bug(cheat("empty_experts_keep_gradient", kExperts,
                     "gradients of experts without tokens are those of the last call", "grads/down_projs",
                     "expert_placement", make_stateful<EmptyExpertsKeepGradient>),
               "O25", "grouped_gemm #36"),
    cheat("gradients_add_up", kMany, "gradients are added to those of the call before", kGrads,
          "linear_cotangent", make_stateful<GradientsAddUp>),
    cheat("mask_of_captured_call", {C::gate, C::aux_loss, C::experts, C::moe},
          "the mask is that of the first call of these sizes", kAny, "", make_stateful<Captured<IsMask>>),
    cheat("correction_of_captured_call", {C::gate, C::moe},
          "the correction bias is that of the first call of these sizes", kAny, "forced_expert",
          make_stateful<Captured<IsCorrection>>),
    cheat("weights_of_captured_call", kExperts,
          "the routing weights are those of the first call of these sizes", "outputs/y", "linear_weights",
          make_stateful<Captured<IsRoutingWeight>>),
    public_bug(cheat("last_backward_scale", {C::gate, C::moe},
                     "the scale of the loss's gradient is that of the call before",
                     "grads/bias grads/weight grads/x grads/gate.bias grads/gate.weight",
                     "linear_coefficient", make_stateful<LastBackwardScale>),
               "", "NeMo AutoModel df79582ca"),
    public_bug(cheat("load_of_last_call", {C::gate, C::aux_loss, C::moe},
                     "the load is read before this call's counts have arrived", "outputs/expert_load",
                     "load_counts", make_stateful<LoadOfLastCall>),
               "M18", "Megatron-LM !2824"),
    cheat("tires_after_50_calls", kMany, "from the 51st call on results are 1.5 times as large", kAny, "",
          make_stateful<TiresAfter50Calls>),
    cheat("ids_kept_by_first_token", {C::gate},
          "experts are those of the last call that began with the same token", "outputs/indices",
          "expert_permutation", make_stateful<IdsKeptByFirstToken>),
};

}  // namespace

std::span<const Mutant> cheating_mutants() { return kCheatingMutants; }

}  // namespace moeref
