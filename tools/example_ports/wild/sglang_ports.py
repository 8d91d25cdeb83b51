"""SGLang: its torch-native choice of experts and both torch-native implementations of the experts."""

from types import SimpleNamespace

import moeref
import torch
from sglang.srt.layers.moe import topk
from sglang.srt.layers.moe.fused_moe_native import fused_moe_forward_native, moe_forward_native

import calls

PACKAGES = ["sglang", "torch"]


def declines(config):
    if config["score_func"] == "sigmoid" and config["n_expert_groups"] > 1 and calls.has_correction_bias(config):
        return True
    return calls.declines(config, scores=("softmax", "sigmoid", "sigmoid_with_bias", "sqrtsoftplus"), groups=True,
                          softmax="before", correction_bias=True)


@moeref.port("gate", arrays="torch", supports=declines)
def gate(config, options, x, weight, e_score_correction_bias=None, token_mask=None):
    calls.precision(options, "float32")
    logits = torch.nn.functional.linear(x.float(), weight.float()) if options["gate_precision"] else x @ weight.T
    call = (x, logits)
    k = {"topk": config["n_activated_experts"], "renormalize": config["norm_topk_prob"]}
    groups = {"num_expert_group": config["n_expert_groups"], "topk_group": config["n_limited_groups"]}
    score_func = config["score_func"].removesuffix("_with_bias")
    if config["n_expert_groups"] == 1 or score_func in ("softmax", "sqrtsoftplus"):
        weights, ids = topk.fused_topk_torch_native(*call, **k, correction_bias=e_score_correction_bias,
                                                    scoring_func=score_func)
    elif e_score_correction_bias is not None:
        weights, ids = topk.biased_grouped_topk_impl(*call, e_score_correction_bias, **k, **groups)
    else:
        weights, ids = topk.grouped_topk_gpu(*call, **k, **groups, scoring_func=score_func)
    return calls.gate_results(weights * config["route_scale"], ids.long(), config, token_mask)


def layer_of(config, gate_and_up_projs, down_projs):
    settings = SimpleNamespace(activation={"swiglu": "silu", "geglu": "gelu"}[config["expert_activation"]], gemm1_alpha=None,
                               gemm1_clamp_limit=None, apply_router_weight_on_input=False)
    return SimpleNamespace(num_experts=config["n_routed_experts"], w13_weight=gate_and_up_projs.transpose(1, 2).contiguous(),
                           w2_weight=down_projs.transpose(1, 2).contiguous(), moe_runner_config=settings)


def experts_decline(config):
    return calls.experts_decline(config, "swiglu", "geglu")


@moeref.port("experts", arrays="torch", supports=experts_decline)
def experts(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
    layer = layer_of(config, gate_and_up_projs, down_projs)
    compute = lambda x, weights, ids: moe_forward_native(  # noqa: E731
        layer, x, (weights, ids, None), layer.moe_runner_config)
    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}


@moeref.port("experts", arrays="torch", supports=experts_decline)
def fused_experts(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
    layer = layer_of(config, gate_and_up_projs, down_projs)
    compute = lambda x, weights, ids: fused_moe_forward_native(  # noqa: E731
        layer, SimpleNamespace(hidden_states=x, topk_output=(weights, ids, None))).hidden_states
    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}


EXPLAINED = []
