// Bugs of the catalogue that one process behind the common interface cannot have, each with the reason.
#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

Mutant cannot(std::string_view name, std::string_view bug, std::string_view source, Component component,
              std::string_view does, std::string_view why) {
  Mutant out;
  out.name = name;
  out.bug = bug;
  out.source = source;
  out.components = {component};
  out.does = does;
  out.cannot = why;
  return out;
}

constexpr std::string_view kFramework =
                               "an error of the framework around the layer: nothing wrong is computed",
                           kTensorParallel = "tensor parallelism is no part of a call",
                           kCapacity = "experts have no capacity and drop no token",
                           kJitter = "the gate adds no noise to its input",
                           kAccumulation =
                               "a call with gradients is one forward and one backward pass: micro-batches "
                               "of one gradient are several calls",
                           kCheckpoints =
                               "weights come with every call: loading them is not the implementation's",
                           kRace =
                               "a race between streams or ranks: a model of it in one process has no timing",
                           kSync = "what becomes of gradients after the backward pass is no part of a call";

const Mutant kInexpressibleMutants[] = {
    cannot("loss_gradient_grows_with_micro_batches", "A4", "NeMo AutoModel #3359", C::gate,
           "the loss's scale forgets the number of micro-batches", kAccumulation),
    cannot("correction_not_loaded", "A13", "NeMo AutoModel #3348", C::bias_update,
           "a full correction bias does not load into a distributed buffer", kCheckpoints),
    cannot("load_added_in_place", "A15", "NeMo AutoModel c872a25fb", C::bias_update,
           "the cumulative load is added to in place, which automatic differentiation refuses", kFramework),
    cannot("balanced_gate_without_factor", "A17", "NeMo AutoModel #2253", C::fake_balanced_gate,
           "the balanced gate lacks a member that the update loop reads", kFramework),
    cannot("update_asked_of_fixed_bias", "A18", "NeMo AutoModel 564ff4f2", C::bias_update,
           "the training loop asks for an update where the factor is 0",
           "a call with a factor of 0 is an error of its own"),
    cannot("distributed_bias_in_loop", "A30", "NeMo AutoModel #1565", C::experts,
           "expert biases stay distributed tensors and do not mix with local ones", kFramework),
    cannot("float32_weights_under_bfloat16", "A31", "NeMo AutoModel #1913", C::experts,
           "expert weights stay float32 while activations are bfloat16", kFramework),
    cannot("shared_experts_on_side_stream", "A35", "NeMo AutoModel 987ba24e1", C::moe,
           "no fence between the shared experts' stream and the backward pass", kRace),
    cannot("modules_in_default_type", "A36", "NeMo AutoModel #3328", C::init,
           "gate and experts are built in the default type",
           "a result may come in any floating type: the type that holds it is no value"),
    cannot("experts_copied_into_temporary", "A47", "NeMo AutoModel #2682", C::experts,
           "loaded weights are copied into a tensor that is thrown away", kCheckpoints),
    cannot("replicas_not_synchronised", "A49", "NeMo AutoModel #3135", C::moe, "replicas drift apart", kSync),
    cannot("norm_clipped_per_group", "A50", "NeMo AutoModel #3816", C::moe,
           "gradients are clipped by a norm per expert-parallel group", kSync),
    cannot("adapters_of_wrong_width", "A52", "NeMo AutoModel #2102", C::moe,
           "low-rank adapters are made for the model's width where experts work in another",
           "low-rank adapters are no part of the layer"),
    cannot("coefficient_not_divided", "M14", "Megatron-LM cac8d1a3f0", C::gate,
           "the coefficients of the losses are not divided by the tensor-parallel size", kTensorParallel),
    cannot("z_loss_of_probabilities", "M16", "Megatron-LM c656553315", C::gate,
           "the z-loss sees probabilities", "the documented gate has no z-loss"),
    cannot("jitter_on_logits", "M17", "Megatron-LM e9204a5f36", C::gate,
           "noise is put on logits in place of the input", kJitter),
    cannot("capacity_beyond_tokens", "M22", "Megatron-LM #2214", C::gate,
           "a capacity above the number of tokens fails", kCapacity),
    cannot("drop_policy_misspelt", "M23", "Megatron-LM 7968fd6532", C::gate,
           "the policy that drops tokens is misspelt and another one is used", kCapacity),
    cannot("jitter_in_float32", "M25", "Megatron-LM !3774", C::gate,
           "noise in float32 makes the input float32", kJitter),
    cannot("router_cheats_the_sum", "M31", "Megatron-LM #1545", C::gate,
           "sigmoids below 1e-20 escape the loss",
           "the documented formula itself allows it, and the reference follows it"),
    cannot("verifier_tolerance_of_one", "O12", "aiter #4398", C::moe,
           "a test allows an error of 1 on outputs of 1e-3",
           "a bug of a verifier: noise_as_large_as_output is what it let through"),
    cannot("offset_beyond_32_bits", "O27", "TransformerEngine #2196", C::experts,
           "row times width overflows 32 bits",
           "needs a tensor of 2^31 elements: row_index_in_16_bits has the same overflow at a size that a "
           "test can have"),
    cannot("shared_seed_of_ranks", "", "fastmoe #4", C::init, "every rank draws the same experts",
           "the same bug as ranks_share_a_seed"),
    cannot("doubles_of_the_reference", "", "", C::experts,
           "the port calls the reference and hands back its numbers, in float64 or each rounded once",
           "the sound implementation of these trials is that port: rounding_shows and the identity check of "
           "moeref validate are there for it"),
    cannot(
        "inputs_changed_and_restored", "", "", C::experts,
        "the implementation writes into its inputs and restores them before it returns",
        "a call is constant and in this thread nothing reads it meanwhile: what is restored was never seen"),
};

}  // namespace

std::span<const Mutant> inexpressible_mutants() { return kInexpressibleMutants; }

}  // namespace moeref
