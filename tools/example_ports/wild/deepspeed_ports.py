"""DeepSpeed: AutoEP's router and experts."""

import moeref
import torch
from deepspeed.moe.ep_experts import GroupedExperts
from deepspeed.moe.ep_router import TokenChoiceTopKRouter
from deepspeed.moe.sharded_moe import TopKGate
from torch.func import functional_call

import calls

from moeref_port import NotSupported

PACKAGES = ["deepspeed", "torch"]
ACTIVATIONS = {"swiglu": "swiglu", "geglu": "geglu_tanh", "swiglu_limit": "swiglu_clamped"}


def declines(config):
    return calls.declines(config, scores=("softmax", "sigmoid", "sigmoid_with_bias"), groups=True, softmax="before",
                          correction_bias=True, router_bias=True)


@moeref.port("gate", arrays="torch", autograd=True, supports=declines)
def gate(config, options, x, weight, bias=None, e_score_correction_bias=None, token_mask=None):
    calls.precision(options)
    calls.one_type(x, weight)
    groups = config["n_expert_groups"] if config["n_expert_groups"] > 1 and config["score_func"] != "softmax" else None
    router = TokenChoiceTopKRouter(
        config["dim"], config["n_routed_experts"], groups, config["n_limited_groups"], config["n_activated_experts"],
        "softmax" if config["score_func"] == "softmax" else "sigmoid", config["norm_topk_prob"], config["route_scale"],
        config["router_bias"], "top2_sum" if calls.sums_two(config) else "max")
    held = {"gate.weight": weight, **({} if bias is None else {"gate.bias": bias})}
    weights, ids, _ = functional_call(router, held, (x, e_score_correction_bias))
    return calls.gate_results(weights, ids, config, token_mask)


def experts_decline(config):
    return calls.experts_decline(config, *ACTIVATIONS)


@moeref.port("experts", arrays="torch", autograd=True, supports=experts_decline)
def experts(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
    limited = config["expert_activation"] == "swiglu" and config["swiglu_limit"] > 0
    layer = GroupedExperts(x.shape[1], config["moe_inter_dim"], config["n_routed_experts"], use_grouped_mm=False,
                           activation=ACTIVATIONS["swiglu_limit" if limited else config["expert_activation"]],
                           activation_limit=config["swiglu_limit"])
    gate, up = calls.gate_up(gate_and_up_projs)
    held = {"w1": gate, "w3": up, "w2": down_projs.transpose(1, 2)}

    def compute(x, weights, ids):
        order = ids.flatten().argsort(stable=True)  # as AutoEP's layer sorts, and adds up
        load = torch.bincount(ids.flatten(), minlength=config["n_routed_experts"])
        rows = order // ids.shape[1]
        y = functional_call(layer, held, (x[rows], load))
        y = (y.float() * weights.flatten()[order].reshape(-1, 1)).to(x.dtype)
        return torch.zeros_like(x).index_add(0, rows, y)

    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}


#: What the gate of two experts does, and that of more.
TWO = {"capacity_order": "choice", "aux_loss_counts": "first_choice"}
MORE = {"capacity_order": "weight", "aux_loss_counts": "every_choice"}


def drops(config):
    if config["n_activated_experts"] < 2 or config["n_expert_groups"] > 1:
        return "the port has its gates of two experts and more, without groups"
    if not config["capacity_factor"] or config["min_capacity"] < 1:
        return "its capacity is a factor, with a least one"
    rules = TWO if config["n_activated_experts"] == 2 else MORE
    return calls.declines({**config, "aux_loss_coeff": 0.0}, scores=("softmax",), softmax="before", route_scale=1.0,
                          norm_topk_prob=True, norm_denominator="max_of_sum_and_eps", norm_eps=2.0**-23,
                          norm_after_dropping=True, router_weights_fp32=True, **rules)


@moeref.port("gate", arrays="torch", autograd=True, supports=drops, conventions=[
    "norm_denominator", "norm_eps", "norm_after_dropping", "capacity_factor", "min_capacity", "capacity_order", "aux_loss_counts"])
def topk_gate(config, options, x, weight, token_mask=None):
    calls.precision({**options, "gate_precision": None})
    calls.no_padding(None if token_mask is None else ~token_mask)
    if options["gate_precision"] != "float32":
        raise NotSupported("it computes in float32")
    factor = config["capacity_factor"]
    run = lambda drop: functional_call(  # noqa: E731
        TopKGate(config["dim"], config["n_routed_experts"], config["n_activated_experts"], factor, factor, config["min_capacity"],
                 drop_tokens=drop, top2_2nd_expert_sampling=False).train(options["training"]),
        {"wg.weight": weight}, (x,), {"sparse_routes": True})
    loss, _, _, kept, _, weights, load = run(True)
    results = {"weights": weights.T, "indices": run(False)[3].T.long(), "dispatched_indices": kept.T.long(), "expert_load": load}
    if options["training"] and config["aux_loss_coeff"] > 0:
        results["aux_loss"] = loss
        results["weights"] = calls.with_loss(weights.T, config["aux_loss_coeff"] * options["aux_loss_backward_scale"] * loss)
    return results


EXPLAINED = [
    {"kind": "convention", "cases": "groups_negative", "finding": "chose", "field": "discarded_groups",
     "what": "Experts of discarded groups score minus infinity; under `sigmoid` the documented system has 0 there, which "
             "wins over negative biased scores.",
     "source": ["deepspeed/moe/ep_router.py", 'float("-inf")).view(-1, self.num_experts)']},
    {"kind": "convention", "cases": "top1", "field": "norm_at_top1",
     "what": "One expert is normalised, too: its weight is always 1, and the router has no gradient.",
     "source": ["deepspeed/moe/ep_router.py", "denominator = top_scores.sum"]},
    calls.weight_after_down("deepspeed/module_inject/auto_ep_layer.py",
                            "output = (output * top_scores.reshape(T, top_k, 1).float())", ports="experts", how=" (`score_apply` \"post\")"),
]
