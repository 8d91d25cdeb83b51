"""Modules of transformers whose rules have fields of their own: experts of five models, two whole layers and two losses."""

from types import SimpleNamespace

import moeref
import torch
from torch.func import functional_call
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashExperts
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.muse_spark.modeling_muse_spark import MuseSparkMoE
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts
from transformers.models.step3p7.modeling_step3p7 import Step3p7Experts
from transformers.models.switch_transformers import modeling_switch_transformers as switch

import calls

#: Activations without a gate, and with one, by the names that models' configs have for them.
UNGATED = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
GATED = {"swiglu": "silu", "geglu_erf": "gelu"}


def settings(config, **own):
    """What the modules read of their models' configs."""
    experts, dim, inner = config["n_routed_experts"], config["dim"], config["moe_inter_dim"]
    return SimpleNamespace(**{
        "_experts_implementation": "eager", "num_local_experts": experts, "n_routed_experts": experts, "num_experts": experts,
        "num_experts_per_tok": config["n_activated_experts"], "hidden_size": dim, "moe_intermediate_size": inner,
        "intermediate_size": inner, "expert_ffn_hidden_size": inner, "hidden_act": "silu", "moe_latent_size": None, **own})


def linear(projections):
    return projections.transpose(1, 2)  # x @ W here, x @ W^T there


def experts_port(make, supports, conventions):
    """Experts whose parameters lie as Mixtral's do; `make` makes them of a config."""
    @moeref.port("experts", arrays="torch", autograd=True, supports=supports, conventions=conventions)
    def run(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
        calls.one_type(x, gate_and_up_projs)
        layer = make({**config, "dim": x.shape[1]})
        up = "gate_up_proj" if hasattr(layer, "gate_up_proj") else "up_proj"
        rows = getattr(layer, up).shape[0] - len(gate_and_up_projs)  # LongCat's identity experts have rows, unused
        held = {up: torch.nn.functional.pad(linear(gate_and_up_projs), (0, 0, 0, 0, 0, rows)), "down_proj": linear(down_projs)}
        compute = lambda x, weights, ids: functional_call(layer, held, (x, ids, weights))  # noqa: E731
        return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}

    return run


def has(*activations, **fixed):
    """`supports` of experts without a bias that have these activations, and these values of fields."""
    def supports(config):
        for name, value in fixed.items():
            if config[name] != value:
                return f"its {name} is always {value}"
        return calls.experts_decline(config, *activations)

    return supports


mixtral_experts = experts_port(
    lambda config: mixtral.MixtralExperts(settings(config, hidden_act=GATED[config["expert_activation"]])), has(*GATED),
    ["geglu_erf", "null_slots"])
nemotron_h_experts = experts_port(
    lambda config: NemotronHExperts(settings(config, mlp_hidden_act=UNGATED[config["expert_activation"]])), has(*UNGATED),
    [*UNGATED])
longcat_flash_experts = experts_port(
    lambda config: LongcatFlashExperts(settings(
        config, n_routed_experts=config["n_routed_experts"] - config["n_identity_experts"],
        zero_expert_num=config["n_identity_experts"])), has("swiglu"), ["n_identity_experts"])
step3p7_experts = experts_port(
    lambda config: Step3p7Experts(settings(config), config["swiglu_limit"]),
    has("swiglu_limit", clamp_after_activation=True), ["clamp_after_activation"])


def declines(config, **fixed):
    """Why a whole layer with sigmoids and no padding cannot be given this config, or True."""
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else calls.declines(config, scores=("sigmoid",), **fixed)


@moeref.port("moe", arrays="torch", autograd=True, conventions=["selection_scores", "router_weight_on_input"],
             supports=lambda config: declines(
                 config, selection_scores="logits", router_weight_on_input=True, norm_topk_prob=False, route_scale=1.0,
                 router_weights_fp32=False, n_shared_experts=1, shared_expert_inter_dim=None, shared_expert_gate=False,
                 shared_expert_activation="swiglu", moe_latent_size=None))
def llama4_moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, shared_experts_gate_proj_weight,
               shared_experts_up_proj_weight, shared_experts_down_proj_weight, padding_mask=None):
    calls.precision(options)
    calls.no_padding(padding_mask)
    held = {"router.weight": gate_weight, "experts.gate_up_proj": experts_gate_and_up_projs,
            "experts.down_proj": experts_down_projs, "shared_expert.gate_proj.weight": shared_experts_gate_proj_weight,
            "shared_expert.up_proj.weight": shared_experts_up_proj_weight,
            "shared_expert.down_proj.weight": shared_experts_down_proj_weight}
    y, _ = functional_call(Llama4TextMoe(settings(config)), held, (x,))
    return {"y": y.reshape(x.shape)}


@moeref.port("moe", arrays="torch", autograd=True,
             conventions=["norm_eps", "norm_at_top1", "logit_scale", "latent_norm", "latent_norm_eps"],
             supports=lambda config: declines(
                 config, correction_bias=True, latent_norm="after_fc1", norm_topk_prob=True, norm_eps=1e-15,
                 norm_at_top1="weights_and_scores", n_shared_experts=0, router_weights_fp32=True))
def muse_spark_moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, fc1_latent_proj_weight,
                   fc2_latent_proj_weight, latent_norm_weight, gate_e_score_correction_bias, padding_mask=None):
    calls.precision(options, "float32")
    calls.no_padding(padding_mask)
    layer = MuseSparkMoE(settings(
        config, moe_hidden_size=config["moe_latent_size"], rms_norm_eps=config["latent_norm_eps"], post_norm_eps=1e-6,
        output_multiplier=config["logit_scale"], n_group=1, topk_group=1, norm_topk_prob=True,
        routed_scaling_factor=config["route_scale"], route_scale=config["route_scale"],
        router_scaling_factor=config["route_scale"]))
    layer.experts.post_expert_norm = torch.nn.Identity()  # for which there is no field
    held = {"gate.weight": gate_weight, "gate.e_score_correction_bias": gate_e_score_correction_bias,
            "pre_expert_proj.weight": fc1_latent_proj_weight, "post_expert_proj.weight": fc2_latent_proj_weight,
            "pre_expert_norm.weight": latent_norm_weight.float() - 1,  # its factor is 1 + the weight
            "experts.gate_up_proj": linear(experts_gate_and_up_projs), "experts.down_proj": linear(experts_down_projs)}
    return {"y": functional_call(layer, held, (x.reshape(1, -1, x.shape[-1]),)).reshape(x.shape)}


@moeref.port("gate", arrays="torch", autograd=True, conventions=["aux_loss_factor", "norm_eps", "norm_at_top1"],
             supports=lambda config: calls.declines(
                 {**config, "aux_loss_coeff": 0.0}, scores=("softmax",), softmax="before", norm_topk_prob=True, norm_eps=0.0,
                 norm_at_top1="weights_and_scores", aux_loss_factor="experts", route_scale=1.0, router_weights_fp32=True))
def mixtral_gate_and_loss(config, options, x, weight, token_mask=None):
    calls.precision(options)
    calls.one_type(x, weight)
    k, experts = config["n_activated_experts"], config["n_routed_experts"]
    logits, weights, ids = functional_call(mixtral.MixtralTopKRouter(settings(config)), {"weight": weight}, (x,))
    results = calls.gate_results(weights, ids, config, token_mask)
    if options["training"] and config["aux_loss_coeff"] > 0:
        results["aux_loss"] = mixtral.load_balancing_loss_func((logits,), experts, k, token_mask)
        results["weights"] = calls.with_loss(weights, config["aux_loss_coeff"] * options["aux_loss_backward_scale"]
                                             * results["aux_loss"])
    return results


@moeref.port("aux_loss", arrays="torch", passes=["forward", "backward"], dtypes=["float32", "float64"], conventions=["aux_loss_sequences"],
             supports=lambda config: config["n_activated_experts"] == 1 or "it counts one expert of a token")
def switch_loss(config, original_scores, indices, token_mask=None):
    calls.no_padding(None if token_mask is None else ~token_mask)
    sequences = config["aux_loss_sequences"]
    scores = original_scores.requires_grad_()
    loss = switch.load_balancing_loss_func(scores.reshape(sequences, -1, scores.shape[1]), indices.reshape(sequences, -1))
    load = torch.bincount(indices.flatten(), minlength=scores.shape[1])
    return {"aux_loss": loss, "expert_load": load, "grads/original_scores": torch.autograd.grad(loss, scores)[0]}
