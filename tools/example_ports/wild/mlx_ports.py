"""mlx-lm on MLX's CPU backend: the routers of DeepSeek-V3, DeepSeek and GPT-OSS, the experts that its models share, and Kimi K3's layer."""

import mlx.core as mx
import moeref
import numpy as np
from mlx_lm.models import deepseek_v3, gpt_oss
from mlx_kimi_k3 import port as mlx_kimi_k3  # noqa: F401  (tools/example_ports/python)
from mlx_lm.models.switch_layers import SwitchGLU

from moeref_port import NotSupported

import calls

PACKAGES = ["mlx-lm", "mlx"]
DTYPES = ["float32", "bfloat16", "float16"]


def given(config, array):
    return mx.array(array).astype(getattr(mx, config["dtype"])) if array is not None else None


def routed(config, weights, ids, mask):
    return calls.gate_results(*(np.array(one.astype(kind)) for one, kind in ((weights, mx.float32), (ids, mx.int64))),
                              config, mask)


@moeref.port("gate", dtypes=DTYPES, supports=lambda config: "a group's score is the sum of its two largest" if
             config["n_expert_groups"] > 1 and not calls.sums_two(config) else calls.declines(
                 config, scores=("sigmoid", "sigmoid_with_bias"), groups=True, correction_bias=True))
def deepseek_v3_gate(config, options, x, weight, e_score_correction_bias=None, token_mask=None):
    calls.precision(options)
    bias = mx.array(np.zeros(len(weight), np.float32) if e_score_correction_bias is None else e_score_correction_bias)
    ids, weights = deepseek_v3.group_expert_select(
        given(config, x) @ given(config, weight).T, bias, config["n_activated_experts"], config["n_expert_groups"],
        config["n_limited_groups"], config["route_scale"], config["norm_topk_prob"])
    return routed(config, weights, ids, token_mask)


@moeref.port("gate", dtypes=DTYPES, supports=lambda config: calls.declines(
    config, scores=("softmax",), softmax="after", router_bias=True, route_scale=1.0))
def gpt_oss_gate(config, options, x, weight, bias=None, token_mask=None):
    calls.precision(options)
    logits = given(config, x) @ given(config, weight).T
    logits = logits if bias is None else logits + given(config, bias)
    largest, ids = gpt_oss.mlx_topk(logits, k=config["n_activated_experts"], axis=-1)
    return routed(config, mx.softmax(largest, axis=-1, precise=True), ids, token_mask)


def experts_decline(config):
    oai = config["expert_activation"] == "quick_geglu"
    return calls.experts_decline(config, "quick_geglu" if oai else "swiglu", expert_bias=oai)


@moeref.port("experts", dtypes=["float32"], supports=experts_decline)  # its gather_mm on a CPU
def experts(config, x, weights, indices, gate_and_up_projs, down_projs, gate_up_proj_bias=None, down_proj_bias=None,
            token_mask=None):
    if (token_mask is not None and not token_mask.all()) or (indices < 0).any():
        raise NotSupported("it knows no padding")
    if len(x) == 0:
        raise NotSupported("there are always tokens")
    oai = config["expert_activation"] == "quick_geglu"
    layer = SwitchGLU(x.shape[1], config["moe_inter_dim"], config["n_routed_experts"], bias=oai,
                      **({"activation": gpt_oss.SwigluOAI(config["activation_alpha"], config["activation_limit"])} if oai else {}))
    halves = (lambda w: (w[..., ::2], w[..., 1::2])) if oai else (lambda w: np.split(w, 2, -1))
    gate, up = halves(gate_and_up_projs)
    for one, weight in ((layer.gate_proj, gate), (layer.up_proj, up), (layer.down_proj, down_projs)):
        one.weight = given(config, np.ascontiguousarray(weight.transpose(0, 2, 1)))
    if oai:
        layer.gate_proj.bias, layer.up_proj.bias = (given(config, np.ascontiguousarray(half)) for half in
                                                    halves(gate_up_proj_bias))
        layer.down_proj.bias = given(config, down_proj_bias)
    y = layer(given(config, x), mx.array(indices))
    y = (y * given(config, weights)[..., None]).sum(axis=-2)  # as the models' layers do
    return {"y": np.array(y.astype(mx.float32))}


EXPLAINED = [
    {"kind": "convention", "cases": "sigmoid_with_bias_groups_negative", "finding": "chose", "field": "discarded_groups",
     "what": "Experts of discarded groups score 0, which wins over negative biased scores; the documented system and "
             "transformers' DeepSeek-V3 exclude them.",
     "source": ["mlx_lm/models/deepseek_v3.py", "scores, mx.stop_gradient(group_idx), mx.array(0.0)"]},
]
