"""vLLM: the router of its CPU experts, which is plain torch (its experts are compiled kernels)."""

import moeref
import torch
from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

import calls

PACKAGES = ["vllm", "torch"]


def declines(config):
    if config["score_func"] == "softmax" and config["route_scale"] != 1:
        return "its softmax router has no scale"
    if config["score_func"] == "softmax" and not config["softmax_before_topk"] and not config["norm_topk_prob"]:
        return "its softmax over the chosen experts is the normalised one"
    if config["score_func"] == "sigmoid_with_bias" and not calls.has_correction_bias(config):
        return "without a bias a group's score is its largest"
    return calls.declines(config, scores=("softmax", "sigmoid", "sigmoid_with_bias"), groups=True, correction_bias=True)


@moeref.port("gate", arrays="torch", supports=declines)
def gate(config, options, x, weight, e_score_correction_bias=None, token_mask=None):
    calls.precision(options, "float32")
    exact = torch.float32 if options["gate_precision"] else x.dtype
    softmax = config["score_func"] == "softmax"
    grouped = config["n_expert_groups"] > 1 and not softmax
    router = CPURouter(
        config["n_activated_experts"], config["n_routed_experts"], use_grouped_topk=not softmax,
        num_expert_group=config["n_expert_groups"] if grouped else 1, topk_group=config["n_limited_groups"] if grouped else 1,
        renormalize=config["norm_topk_prob"] or not config["softmax_before_topk"] and softmax,
        scoring_func="softmax" if softmax else "sigmoid", routed_scaling_factor=config["route_scale"],
        e_score_correction_bias=e_score_correction_bias)
    weights, ids = router._compute_routing(x, torch.nn.functional.linear(x.to(exact), weight.to(exact)), None)
    return calls.gate_results(weights, ids.long(), config, token_mask)


EXPLAINED = []
