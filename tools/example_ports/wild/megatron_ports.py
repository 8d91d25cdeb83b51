"""Megatron-Core: the router's choice of experts, its load-balancing loss and its experts' MLPs."""

import moeref
import torch
from megatron.core.transformer.moe.moe_utils import switch_load_balancing_loss_func, topk_routing_with_score_function

import calls

PACKAGES = ["megatron-core", "torch"]
SCORES = {"softmax": "softmax", "sigmoid": "sigmoid", "sigmoid_with_bias": "sigmoid"}


def declines(config):
    if config["score_func"] != "softmax" and config["norm_topk_prob"] != (config["n_activated_experts"] > 1):
        return "its sigmoid scores are always normalised, of more than one expert"
    if config["score_func"] == "softmax" and config["softmax_before_topk"] and config["norm_topk_prob"] \
            and config["n_activated_experts"] > 1:
        return "it does not normalise a softmax over all experts"
    grouped = config["n_expert_groups"] > 1 and config["score_func"] != "softmax"
    summed = 2 if calls.sums_two(config) else 1
    if grouped and config["n_activated_experts"] // config["n_limited_groups"] != summed:
        return "it sums k / groups scores of a group"
    return calls.declines(config, scores=tuple(SCORES), groups=True, correction_bias=True)


@moeref.port("gate", arrays="torch", autograd=True, supports=declines)
def gate(config, options, x, weight, e_score_correction_bias=None, token_mask=None):
    calls.precision(options, "float32")
    calls.one_type(x, weight)
    exact = torch.float32 if options["gate_precision"] else x.dtype  # moe_router_dtype
    logits = torch.nn.functional.linear(x.to(exact), weight.to(exact))
    grouped = config["n_expert_groups"] > 1 and config["score_func"] != "softmax"
    probabilities, chosen = topk_routing_with_score_function(
        logits, config["n_activated_experts"], use_pre_softmax=config["softmax_before_topk"],
        num_groups=config["n_expert_groups"] if grouped else None, group_topk=config["n_limited_groups"] if grouped else None,
        scaling_factor=config["route_scale"], score_function=SCORES[config["score_func"]],
        expert_bias=e_score_correction_bias)
    ids = chosen.nonzero()[:, 1].reshape(len(x), -1)
    weights = probabilities.gather(1, ids)
    return calls.gate_results(weights, ids, config, token_mask)


@moeref.port("aux_loss", arrays="torch", passes=["forward", "backward"], dtypes=["float32", "float64"])
def aux_loss(config, original_scores, indices, token_mask=None):
    keep = torch.ones(len(indices), dtype=torch.bool) if token_mask is None else token_mask
    chosen = torch.zeros(len(indices), config["n_routed_experts"], dtype=torch.bool).scatter_(1, indices, True)
    load = (chosen & keep[:, None]).sum(0)  # its routing map is a mask
    scores = original_scores.requires_grad_()
    loss = switch_load_balancing_loss_func(
        scores * keep[:, None], load, total_num_tokens=keep.sum(), topk=config["n_activated_experts"],
        num_experts=config["n_routed_experts"], moe_aux_loss_coeff=1.0)  # the loss is reported without it
    return {"aux_loss": loss, "expert_load": load, "grads/original_scores": torch.autograd.grad(loss, scores)[0]}


EXPLAINED = [
    {"kind": "rounding", "ports": "gate", "cases": "bf16|fp16",
     "what": "The scores go back to the logits' 16 bits before they are chosen and normalised; the documented system keeps "
             "float32, as Megatron-Core 0.19.2 does.",
     "source": ["megatron/core/transformer/moe/moe_utils.py", "scores = torch.sigmoid(logits.float()).type_as(logits)"]},
    calls.megatron_loss_of_padding("aux_loss"),
]
