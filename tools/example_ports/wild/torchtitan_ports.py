"""torchtitan: its router, its routed experts, GPT-OSS's experts and the whole layer."""

from types import SimpleNamespace

import moeref
import torch
from torch.func import functional_call
from torchtitan.components.optimizer.optimizer import register_moe_load_balancing_hook
from torchtitan.models.common.feed_forward import FeedForward
from torchtitan.models.common.linear import Linear
from torchtitan.models.common.moe import GroupedExperts, MoE, RoutedExperts, TokenChoiceTopKRouter
from torchtitan.models.common.token_dispatcher import LocalTokenDispatcher
from torchtitan.models.gpt_oss.moe import GptOssGroupedExperts

import calls

from moeref_port import NotSupported

PACKAGES = ["torchtitan", "torch"]
#: What its catalogue is under (moeref generate --profile), beside the catalogue as it is.
PROFILE = "torchtitan"


def computes_in_bfloat16(declines_experts):
    """Its experts round tokens and parameters of float32 to bfloat16."""
    def decline(config):
        if config["dtype"] != "bfloat16" and config["expert_compute_dtype"] != "bfloat16":
            return "its experts compute in bfloat16"
        return declines_experts(config)
    return decline


IN_BFLOAT16 = {"arrays": "torch", "autograd": True, "dtypes": ["bfloat16", "float32"]}
ROUTER_RULES = ["discarded_groups", "norm_at_top1"]


def declines(config):
    if config["n_expert_groups"] > 1 and config["score_func"] != "softmax" and not calls.sums_two(config):
        return "a group's score is the sum of its two largest"
    return calls.declines(config, scores=("softmax", "sigmoid", "sigmoid_with_bias"), groups=True, softmax="before",
                          correction_bias=True, router_bias=True)


def router_of(config):
    groups = config["n_expert_groups"] if config["n_expert_groups"] > 1 and config["score_func"] != "softmax" else None
    linear = Linear.Config(in_features=config["dim"], out_features=config["n_routed_experts"], bias=config["router_bias"])
    return TokenChoiceTopKRouter.Config(
        num_experts=config["n_routed_experts"], gate=linear, num_expert_groups=groups,
        num_limited_groups=config["n_limited_groups"] if groups else None, top_k=config["n_activated_experts"],
        score_func="softmax" if config["score_func"] == "softmax" else "sigmoid", route_norm=config["norm_topk_prob"],
        route_scale=config["route_scale"])


@moeref.port("gate", arrays="torch", autograd=True, conventions=ROUTER_RULES, supports=declines)
def gate(config, options, x, weight, bias=None, e_score_correction_bias=None, token_mask=None):
    calls.precision(options, "float32")
    calls.one_type(x, weight)
    held = {"gate.weight": weight, **({} if bias is None else {"gate.bias": bias})}
    weights, ids, _ = functional_call(router_of(config).build(), held, (x[None], e_score_correction_bias))
    return calls.gate_results(weights[0], ids[0], config, token_mask)


def experts_of(config, kind, dim):
    sizes = {"dim": dim, "hidden_dim": config["moe_inter_dim"], "num_experts": config["n_routed_experts"]}
    if kind is GptOssGroupedExperts:
        sizes["swiglu_limit"] = config["activation_limit"]
    dispatcher = LocalTokenDispatcher.Config(num_experts=config["n_routed_experts"], top_k=config["n_activated_experts"])
    return RoutedExperts.Config(inner_experts=kind.Config(**sizes), token_dispatcher=dispatcher)


def routed(config, kind, held, x, weights, ids):
    layer = experts_of(config, kind, x.shape[-1]).build()
    load = torch.bincount(ids.flatten(), minlength=config["n_routed_experts"])
    return functional_call(layer, held, (x[None], weights[None], ids[None], load))[0]


def swiglu_parameters(prefix, gate_and_up_projs, down_projs):
    gate, up = calls.gate_up(gate_and_up_projs)
    return {f"{prefix}w1_EFD": gate, f"{prefix}w3_EFD": up, f"{prefix}w2_EDF": down_projs.transpose(1, 2)}


@moeref.port("experts", **IN_BFLOAT16, conventions=["expert_compute_dtype"],
             supports=computes_in_bfloat16(lambda config: calls.experts_decline(config, "swiglu")))
def experts(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
    held = swiglu_parameters("inner_experts.", gate_and_up_projs, down_projs)
    compute = lambda *call: routed(config, GroupedExperts, held, *call)  # noqa: E731
    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}


def is_gpt_oss(config):
    if config["activation_alpha"] != 1.702:
        return "its alpha is 1.702"
    return calls.experts_decline(config, "quick_geglu", expert_bias=True)


@moeref.port("experts", **IN_BFLOAT16, conventions=["expert_compute_dtype"], supports=computes_in_bfloat16(is_gpt_oss))
def gpt_oss_experts(config, x, weights, indices, gate_and_up_projs, down_projs, gate_up_proj_bias, down_proj_bias,
                    token_mask=None):
    held = {"mlp1_weight_EGD": gate_and_up_projs.transpose(1, 2), "mlp1_bias_EG": gate_up_proj_bias,
            "mlp2_weight_EDF": down_projs.transpose(1, 2), "mlp2_bias_ED": down_proj_bias}
    held = {f"inner_experts.{name}": tensor for name, tensor in held.items()}
    compute = lambda *call: routed(config, GptOssGroupedExperts, held, *call)  # noqa: E731
    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}


def is_layer(config):
    if config["n_shared_experts"] > 0 or config["moe_latent_size"] is not None:
        return "shared experts and latent projections are not in this port"
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else declines(config)


@moeref.port("moe", **IN_BFLOAT16, conventions=["expert_compute_dtype", *ROUTER_RULES], supports=computes_in_bfloat16(is_layer))
def moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, gate_bias=None,
        gate_e_score_correction_bias=None, padding_mask=None):
    calls.precision(options, "float32")
    calls.no_padding(padding_mask)
    layer = MoE.Config(num_experts=config["n_routed_experts"], router=router_of(config),
                       routed_experts=experts_of(config, GroupedExperts, config["dim"])).build()
    held = {"router.gate.weight": gate_weight, "tokens_per_expert_E": torch.zeros(config["n_routed_experts"]),
            **swiglu_parameters("routed_experts.inner_experts.", experts_gate_and_up_projs, experts_down_projs)}
    held.update({} if gate_bias is None else {"router.gate.bias": gate_bias})
    correction = gate_e_score_correction_bias
    held["expert_bias_E"] = torch.zeros(config["n_routed_experts"]) if correction is None else correction
    seen = {}
    layer.router.register_forward_hook(lambda _, __, given: seen.update(weights=given[0], indices=given[1]) or None)
    y = functional_call(layer, held, (x.reshape(1, -1, x.shape[-1]),)).reshape(x.shape)
    return {"y": y, **{name: tensor.flatten(0, -2) for name, tensor in seen.items()}}


@moeref.port("bias_update", arrays="torch", conventions=["centred_bias_update", *ROUTER_RULES],
             supports=lambda config: declines({**config, "aux_loss_coeff": 0.0}) if config["centred_bias_update"] else
             "its updates are centred")
def bias_update(config, options, weight, e_score_correction_bias, bias=None, **given):
    calls.precision({**options, "dp_size": 1}, "float32")
    if options["dp_size"] != 1 or not options["training"]:
        raise NotSupported("the port trains on one rank")
    experts = config["n_routed_experts"]
    layer = MoE.Config(num_experts=experts, router=router_of(config), load_balance_coeff=config["gate_bias_update_factor"],
                       routed_experts=experts_of({**config, "moe_inter_dim": 8}, GroupedExperts, config["dim"])).build()
    layer.routed_experts.forward = lambda x, *_: x  # what they compute has no part in the update
    layer.tokens_per_expert_E.zero_()
    layer.router.gate.weight.data = weight
    if bias is not None:
        layer.router.gate.bias.data = bias
    layer.expert_bias_E = e_score_correction_bias.clone()
    seen, hooks, results = {}, [], {}
    layer.router.register_forward_hook(lambda _, __, routed: seen.update(indices=routed[1][0]) or None)
    block = SimpleNamespace(moe_enabled=True, moe=layer)
    model = SimpleNamespace(get_submodule=lambda _: Blocks(block))
    register_moe_load_balancing_hook(SimpleNamespace(register_step_pre_hook=hooks.append), [model],
                                     SimpleNamespace(get_optional_mesh=lambda _: None, ep_enabled=False))
    for step in range(options["steps"]):
        for batch in range(options["micro_batches"]):
            at = f"_{step}_{batch}"
            calls.no_padding(None if given.get("token_mask" + at) is None else ~given["token_mask" + at])
            layer(given["x" + at][None])
            results["indices" + at] = seen["indices"]
        results[f"cumulative_expert_load_{step}"] = layer.tokens_per_expert_E.clone()
        hooks[0]()
        results[f"e_score_correction_bias_{step}"] = layer.expert_bias_E.clone()
    return results


class Blocks(torch.nn.ModuleDict):
    """One block of a model, which the hook asks for its layers."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def values(self):
        return [self.block]


EXPLAINED = [
    {"kind": "convention", "cases": "groups_negative", "finding": "chose", "field": "discarded_groups",
     "what": "Experts of discarded groups score minus infinity; under `sigmoid` the documented system has 0 there, which "
             "wins over negative biased scores.",
     "source": ["torchtitan/models/common/moe.py", 'group_mask.unsqueeze(-1), float("-inf")']},
    {"kind": "convention", "cases": "top1", "finding": "= 1, reference|= 2", "field": "norm_at_top1",
     "what": "One expert is normalised, too: its weight is always 1, and the router has no gradient.",
     "source": ["torchtitan/models/common/moe.py", "denominator = topk_scores_BLK.sum"]},
    {"kind": "bug", "ports": "gate|moe", "cases": "bf16|fp16",
     "what": "The gate is said to compute in float32, by autocast to float32; on a CPU autocast refuses that type with a "
             "warning, and products and scores stay in 16 bits.",
     "source": ["torchtitan/models/common/moe.py", "scores_BLE is already float32 from the autocast above"]},
    {"kind": "bug", "ports": "gpt_oss", "finding": "Expected self.dtype to be equal to src.dtype",
     "what": "GPT-OSS's experts leave their output in bfloat16, without the `.type_as(x)` of the others: the sum of a token's "
             "slots raises RuntimeError where tokens are float32.",
     "source": ["torchtitan/models/gpt_oss/moe.py", "return h_RD + b2_RD"]},
    {"kind": "limit", "finding": "strides should be multiple of 16 bytes",
     "what": "PyTorch's grouped product wants rows of a multiple of 16 bytes.",
     "source": ["torchtitan/models/common/moe.py", "return torch._grouped_mm(A, B_t, offs=offs)"]},
    calls.weight_after_down("torchtitan/models/common/token_dispatcher.py",
                            "to the expert outputs in ``combine``", ports="experts|moe"),
]
