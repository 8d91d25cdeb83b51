"""Megatron-Core's TopKRouter, as a layer of one rank has it (losses, capacity, jitter, Sinkhorn, quantiles), and its SequentialMLP."""

import datetime
from unittest import mock

import moeref
import torch
from megatron.core import parallel_state
from megatron.core.distributed.finalize_model_grads import _update_router_qb_beta, reset_model_temporary_tensors
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from megatron.core.transformer.moe.router import TopKRouter

import calls
from megatron_experts import sequential_experts  # noqa: F401

from moeref_port import NotSupported

PACKAGES = ["megatron-core", "torch"]
SCORES = {"softmax": "softmax", "sigmoid": "sigmoid", "sigmoid_with_bias": "sigmoid", "sqrtsoftplus": "sqrtsoftplus"}
POLICIES = {"token": "position", "weight": "probs"}
LOSSES = {"aux_loss": "load_balancing_loss", "seq_aux_loss": "seq_load_balancing_loss",
          "global_aux_loss": "global_load_balancing_loss"}

torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore(),
                                     timeout=datetime.timedelta(seconds=60))
parallel_state.initialize_model_parallel()
torch.cuda.current_device = lambda: "cpu"  # where the router's buffers are made


def losses_of(config):
    """[(what a loss is called here, its type in Megatron-Core, its coefficient)] of those that there are."""
    own = "global_aux_loss" if config["aux_loss_accumulated"] else "seq_aux_loss" if config["aux_loss_sequences"] > 1 else "aux_loss"
    kinds = {"aux_loss": own, "batch_loss": "aux_loss", "global_loss": "global_aux_loss"}
    return [(name, kind, config[f"{name}_coeff"]) for name, kind in kinds.items() if config[f"{name}_coeff"] > 0]


def balancing(config):
    if config["bias_update_rule"] == "quantile":
        return "quantile_balancing"
    return "sinkhorn" if config["selection_scores"] == "sinkhorn" else [kind for _, kind, _ in losses_of(config)] or "none"


def declines(config):
    softmax, many = config["score_func"] == "softmax", config["n_activated_experts"] > 1
    divides = lambda rules: config["norm_topk_prob"] and (many or config["norm_at_top1"] in rules)  # noqa: E731
    if not softmax and (divides(["weights_and_scores"]) != many or
                        (losses_of(config) and not divides(["scores", "weights_and_scores"]))):
        return "of its other scores than softmax, weights are normalised where there are several, and those of a loss always"
    if softmax and not many and (not config["softmax_before_topk"] or divides(["weights_and_scores"])):
        return "its softmax comes before the choice of one expert, whose weight is not divided"
    if softmax and config["softmax_before_topk"] and config["norm_topk_prob"] and many:
        return "it does not normalise a softmax over all experts"
    grouped = config["n_expert_groups"] > 1 and not softmax
    if grouped and (config["group_score"] != "topk_over_g_sum" or config["discarded_groups"] != "minus_infinity"):
        return "it sums the k / groups largest scores of a group, and excludes the others"
    if len({kind for _, kind, _ in losses_of(config)}) < len(losses_of(config)):
        return "it has one loss of a kind"
    if losses_of(config) and (grouped or calls.has_correction_bias(config)):
        return "its loss counts what the scores by themselves would choose"
    if config["selection_scores"] == "sinkhorn" and (
            config["sinkhorn_tolerance"] != 1e-4 or config["score_func"] != ("softmax" if many else "sigmoid") or divides([])
            or config["route_scale"] != 1):
        return "its tolerance is 1e-4, and it weighs by a softmax over all experts, or the sigmoid of one, without a scale"
    if (config["bias_update_rule"] == "quantile") != (config["selection_scores"] == "logits"):
        return "its quantiles are of logits, and no other choice is"
    if config["expert_capacity"] or config["min_capacity"] or config["capacity_order"] not in POLICIES:
        return "its capacity is a factor, without a least one; tokens or weights order the slots"
    return calls.declines({**config, "aux_loss_coeff": 0.0}, scores=tuple(SCORES), groups=True, correction_bias=True,
                          softmax="before" if config["selection_scores"] == "sinkhorn" and many else None)


def settings(config, options, **own):
    grouped = config["n_expert_groups"] > 1 and config["score_func"] != "softmax"
    exact = {None: None, config["dtype"]: None, "float32": "fp32", "float64": "fp64"}
    if options["gate_precision"] not in exact:
        raise NotSupported(f"its router does not compute in {options['gate_precision']}")
    if config["router_weights_fp32"] and config["dtype"] not in ("float32", "float64") and exact[options["gate_precision"]] is None:
        raise NotSupported("its weights have the type that it computes in")
    kind = balancing(config)
    plain = isinstance(kind, str)
    return TransformerConfig(
        num_layers=1, hidden_size=config["dim"], num_attention_heads=1, num_moe_experts=config["n_routed_experts"],
        add_bias_linear=False, use_cpu_initialization=True, params_dtype=getattr(torch, config["dtype"]),
        moe_router_topk=config["n_activated_experts"], moe_router_load_balancing_type=kind,
        moe_aux_loss_coeff=0.0 if plain else [coefficient for *_, coefficient in losses_of(config)],
        moe_z_loss_coeff=config["z_loss_coeff"] or None,
        moe_router_pre_softmax=config["softmax_before_topk"], moe_router_num_groups=config["n_expert_groups"] if grouped else None,
        moe_router_group_topk=config["n_limited_groups"] if grouped else None,
        moe_router_topk_scaling_factor=config["route_scale"], moe_router_score_function=SCORES[config["score_func"]],
        moe_router_enable_expert_bias=calls.has_correction_bias(config) and kind != "quantile_balancing",
        moe_router_dtype=exact[options["gate_precision"]], moe_input_jitter_eps=0.5 if config["router_jitter"] else None, **own)


def router_of(config, options, weight, correction=None, **own):
    group = torch.distributed.group.WORLD
    router = TopKRouter(settings(config, options, **own), ProcessGroupCollection(tp=group, cp=group, tp_cp=group, tp_dp_cp=group))
    router.set_layer_number(1)
    router.train(options["training"])
    del router.weight
    router.weight = weight
    if correction is not None:
        (router.expert_bias if router.expert_bias is not None else router.qb_beta).copy_(
            correction if router.expert_bias is not None else -correction)
    return router


def chosen(routing_map, tokens):
    return routing_map.nonzero()[:, 1].reshape(tokens, -1)


@moeref.port("gate", arrays="torch", autograd=True, supports=declines, conventions=[
    "norm_at_top1", "group_score", "discarded_groups", "selection_scores", "aux_loss_sequences", "aux_loss_accumulated",
    "batch_loss_coeff", "global_loss_coeff", "z_loss_coeff", "capacity_factor", "capacity_order", "router_jitter"])
def router(config, options, x, weight, e_score_correction_bias=None, token_mask=None, accumulated_expert_load=None,
           router_noise=None):
    calls.precision({**options, "gate_precision": None})
    calls.one_type(x, weight)
    if config["capacity_factor"] > 0 and token_mask is not None and not token_mask.all():
        raise NotSupported("padding takes an expert's room, too")
    if len(x) == 0:
        raise NotSupported("there are always tokens")
    sequences = config["aux_loss_sequences"]
    split = lambda rows: rows.reshape(sequences, -1, *rows.shape[1:]).transpose(0, 1).contiguous()  # noqa: E731  [T / B, B, ...]
    back = lambda rows: rows.reshape(-1, sequences, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)  # noqa: E731
    padding = None if token_mask is None else split(~token_mask)
    MoEAuxLossAutoScaler.main_loss_backward_scale = torch.tensor(options["aux_loss_backward_scale"])
    factor = {"moe_expert_capacity_factor": config["capacity_factor"], "moe_token_drop_policy": POLICIES[config["capacity_order"]]} \
        if config["capacity_factor"] > 0 else {}
    layer = router_of(config, options, weight, e_score_correction_bias, **factor)
    layer.input_jitter = None if router_noise is None else lambda shape: split(router_noise)
    if accumulated_expert_load is not None:
        layer.global_tokens_per_expert.copy_(accumulated_expert_load)
        real = len(x) if token_mask is None else int(token_mask.sum())
        layer.ga_steps.fill_(accumulated_expert_load.sum() / max(real * config["n_activated_experts"], 1))
    get_moe_metrics_tracker().clear()
    probabilities, kept = layer(split(x), padding)
    probabilities, kept = back(probabilities), back(kept)
    recorded = {name: entry.values[0].clone() for name, entry in get_moe_metrics_tracker().metrics.items()}
    selected = kept
    if factor:
        layer.config.moe_expert_capacity_factor = None
        with torch.no_grad():
            selected = back(layer(split(x), padding)[1])
    ids = chosen(selected, len(x))
    results = calls.gate_results(probabilities.gather(1, ids), ids, config, token_mask)
    if factor:
        results["dispatched_indices"] = ids.masked_fill(~kept.gather(1, ids), -1)
    if options["training"]:
        results.update({name: recorded[LOSSES[kind]] for name, kind, _ in losses_of(config)})
        results.update({"z_loss": recorded["z_loss"]} if config["z_loss_coeff"] > 0 else {})
    return results


def updates(config):
    """As `declines`, of a call without weights or a loss."""
    if config["bias_update_rule"] != "quantile":
        return "the port has its quantiles alone"
    many = config["n_activated_experts"] > 1 and config["score_func"] != "softmax"
    no_loss = {"aux_loss_coeff": 0.0, "batch_loss_coeff": 0.0, "global_loss_coeff": 0.0}
    return declines({**config, **no_loss, "norm_topk_prob": many, "norm_at_top1": "none"})


@moeref.port("bias_update", arrays="torch", supports=updates, conventions=["bias_update_rule", "bias_update_ema", "selection_scores"])
def quantile_balancing(config, options, weight, e_score_correction_bias, **given):
    if not options["training"]:
        raise NotSupported("quantiles in training alone")
    steps, batches = options["steps"], options["micro_batches"]
    layer = router_of(config, options, weight, e_score_correction_bias, moe_router_quantile_balancing_ema=config["bias_update_ema"])
    results = {}
    for step in range(steps):
        load = torch.zeros(config["n_routed_experts"], dtype=torch.int64)
        for batch in range(batches):
            at = f"_{step}_{batch}"
            mask = given.get("token_mask" + at)
            if mask is not None and not mask.all():
                raise NotSupported("its quantiles know no padding")
            x = given["x" + at]
            if len(x) * config["n_activated_experts"] % config["n_routed_experts"]:
                raise NotSupported("its slots divide by the experts")
            _, routing_map = layer(x[:, None])
            results["indices" + at] = chosen(routing_map, len(x))
            load += routing_map.sum(0)
        results[f"cumulative_expert_load_{step}"] = load
        with mock.patch.object(torch.distributed, "all_reduce", lambda *_, **__: None), torch.no_grad():  # of one rank
            _update_router_qb_beta([layer], layer.config)
        reset_model_temporary_tensors(layer.config, [layer])
        results[f"e_score_correction_bias_{step}"] = -layer.qb_beta.clone()
    return results


EXPLAINED = [
    {"kind": "bug", "ports": "router", "finding": "must match the size of tensor b|doesn't match the broadcast shape",
     "what": "With a correction bias and padding, tokens' marks are joined to rows of experts without an axis of their own: RuntimeError, "
             "or, with as many tokens as experts, the loads of other experts than the padding's.",
     "source": ["megatron/core/transformer/moe/router.py", "routing_map = routing_map & (~padding_mask)"]},
    {"kind": "bug", "ports": "router", "finding": "dispatched_indices",
     "what": "The policy \"position\" shall drop the last tokens of an expert: it takes the largest of zeros and ones by topk, which promises "
             "no order among equal ones, and on a CPU keeps others than the first.",
     "source": ["megatron/core/transformer/moe/moe_utils.py", "routing_map.int(), k=expert_capacity, dim=0, sorted=False"]},
    {"kind": "rounding", "ports": "router", "cases": "routed_sizes", "finding": "grads/",
     "what": "Scores are of float32, also where `moe_router_dtype` is fp64.",
     "source": ["megatron/core/transformer/moe/moe_utils.py", "scores = torch.sigmoid(logits.float())"]},
    calls.erf("experts"),
    calls.megatron_loss_of_padding("router"),
    {"kind": "convention", "ports": "router", "cases": "sequences|losses", "finding": "aux_loss",
     "what": "With padding, the sums of every sequence are divided by the mean number of real tokens of the sequences, not by its own.",
     "source": ["megatron/core/transformer/moe/router.py", "topk=self.topk * bsz,"]},
]
