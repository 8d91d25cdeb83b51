"""LitGPT: its router with groups and its whole layer."""

import moeref
import torch
from litgpt.config import Config
from litgpt.model import GroupedTopkRouter, LLaMAMoE
from torch.func import functional_call

import calls

PACKAGES = ["litgpt", "torch"]


def declines(config):
    grouped = config["score_func"] != "softmax"
    if grouped and config["n_expert_groups"] == 1:
        return "its sigmoid router has groups"
    if grouped and not calls.sums_two(config):
        return "a group's score is the sum of its two largest"
    return calls.declines(config, scores=("softmax", "sigmoid", "sigmoid_with_bias"), groups=True, softmax="after",
                          correction_bias=grouped)


def settings(config):
    grouped = config["score_func"] != "softmax"
    return Config(
        n_embd=config["dim"], n_head=1, n_expert=config["n_routed_experts"], n_expert_per_token=config["n_activated_experts"],
        n_expert_groups=config["n_expert_groups"] if grouped else None, n_topk_groups=config["n_limited_groups"],
        n_topk_scores_per_group=2, norm_topk_prob=config["norm_topk_prob"], routed_scaling_factor=config["route_scale"],
        moe_intermediate_size=config["moe_inter_dim"], n_shared_expert=config["n_shared_experts"] or None,
        mlp_class_name="LLaMAMoE", bias=False, norm_class_name="RMSNorm", intermediate_size=config["moe_inter_dim"])


@moeref.port("gate", arrays="torch", autograd=True,
             supports=lambda config: "that is no router of its own" if config["score_func"] == "softmax" else
             "the layer scales, not its router" if config["route_scale"] != 1 else declines(config))
def gate(config, options, x, weight, e_score_correction_bias=None, token_mask=None):
    calls.precision(options, "float32")
    held = {"weight": weight}
    held.update({} if e_score_correction_bias is None else {"e_score_correction_bias": e_score_correction_bias})
    weights, ids = functional_call(GroupedTopkRouter(settings(config)), held, (x,))
    return calls.gate_results(weights, ids, config, token_mask)


def is_layer(config):
    if config["moe_latent_size"] is not None or config["shared_expert_gate"] or config["shared_expert_inter_dim"]:
        return "it has neither latent projections nor gated or wider shared experts"
    if config["shared_expert_activation"] != "swiglu":
        return "its shared experts have swiglu"
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else declines(config)


@moeref.port("moe", arrays="torch", autograd=True, supports=is_layer)
def moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, gate_e_score_correction_bias=None,
        shared_experts_gate_proj_weight=None, shared_experts_up_proj_weight=None, shared_experts_down_proj_weight=None,
        padding_mask=None):
    calls.precision(options, "float32")
    calls.no_padding(padding_mask)
    held = {"gate.weight": gate_weight}
    if gate_e_score_correction_bias is not None:
        held["gate.e_score_correction_bias"] = gate_e_score_correction_bias
    gates, ups = calls.gate_up(experts_gate_and_up_projs)
    for one, (gate, up, down) in enumerate(zip(gates, ups, experts_down_projs)):
        held.update({f"experts.{one}.fc_1.weight": gate, f"experts.{one}.fc_2.weight": up, f"experts.{one}.proj.weight": down.T})
    if shared_experts_gate_proj_weight is not None:
        held.update({"shared_experts.fc_1.weight": shared_experts_gate_proj_weight,
                     "shared_experts.fc_2.weight": shared_experts_up_proj_weight,
                     "shared_experts.proj.weight": shared_experts_down_proj_weight})
    layer = LLaMAMoE(settings(config))
    routed = []
    layer.gate.register_forward_hook(lambda _, __, given: routed.append(given))
    y = functional_call(layer, held, (x.reshape(1, -1, x.shape[-1]),)).reshape(x.shape)
    grouped = config["score_func"] != "softmax"  # then its router chooses, else its layer by topk
    return {"y": y, "indices": routed[0][1] if grouped else torch.topk(routed[0], config["n_activated_experts"])[1]}


EXPLAINED = [
    {"kind": "convention", "cases": "sigmoid_with_bias_groups_negative", "finding": "chose", "field": "discarded_groups",
     "what": "Experts of discarded groups score 0, which wins over negative biased scores; the documented system and "
             "transformers' DeepSeek-V3 exclude them.",
     "source": ["litgpt/model.py", "scores_for_choice.masked_fill(~score_mask.bool(), 0.0)"]},
    calls.weight_after_down("litgpt/model.py",
                            "y[token_idx] += probs[token_idx, expert_idx, None] * expert(x[token_idx])", ports="moe"),
]
