#!/usr/bin/env python3
"""The MoE layers of Hugging Face's transformers as a port, on the CPU (transformers_families.py lists them).

    moeref validate --port exec:"python3 tools/example_ports/python/transformers_moe.py" golden/cases

TRANSFORMERS_FAMILY=olmoe takes that model's modules alone (default: the first that can express the config);
TRANSFORMERS_EXPERTS=grouped_mm another implementation of the experts than eager.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "python"))
try:
    import torch
    import transformers
except ImportError as error:
    print(f"transformers_moe.py needs PyTorch and transformers: {error}", file=sys.stderr)
    sys.exit(2)

from moeref_port import NotSupported, Port
from torch_arrays import DTYPES, one_rank_only, to_numpy, to_torch
from transformers_families import (FAMILIES, block_objection, experts_objection, make_config, router_objection)

port = Port("transformers", version=f"{transformers.__version__}, torch {torch.__version__}", ties="open",
            stages=["logits"])
ONLY = os.environ.get("TRANSFORMERS_FAMILY", "")
EXPERTS = os.environ.get("TRANSFORMERS_EXPERTS", "eager")

# Ours -> theirs, and whether the last two axes change places (x @ W here, x @ W^T there).
ROUTER = {"weight": ("weight", False), "bias": ("bias", False),
          "e_score_correction_bias": ("e_score_correction_bias", False)}
EXPERT = {"gate_and_up_projs": ("gate_up_proj", True), "down_projs": ("down_proj", True),
          "gate_up_proj_bias": ("gate_up_proj_bias", False), "down_proj_bias": ("down_proj_bias", False)}


def choose(objections):
    """The first family to which no function objects."""
    reasons = {}
    for family in FAMILIES:
        if ONLY in ("", family.name):
            reasons[family.name] = next(filter(None, (objection(family) for objection in objections)), "")
            if not reasons[family.name]:
                return family
    if not reasons:
        raise NotSupported(f"there is no family '{ONLY}'")
    raise NotSupported("no layer of transformers: " + "; ".join(f"{k}: {v}" for k, v in reasons.items()))


def check_call(config, options, named, x):
    one_rank_only(options)
    if DTYPES[config["dtype"]] != x.dtype:
        raise NotSupported("the input has another dtype than the parameters")
    if config["gate_dtype"] not in (None, config["dtype"]):
        raise NotSupported("the gate has another dtype than the layer")
    if any(name.startswith("inputs/replay_indices") for name in named):
        raise NotSupported("no routing replay")
    if options["training"] and config["aux_loss_coeff"] > 0:
        raise NotSupported("the auxiliary loss is computed outside of the layer")


class Loaded:
    """A module with the case's parameters in its own layout; gives their gradients back in ours."""

    def __init__(self, module, pairs, named, trains_gate=True):
        self.module, self.pairs = module, []
        for ours, (theirs, transposed) in pairs.items():
            value = named["params/" + ours].detach()
            owner, _, leaf = theirs.rpartition(".")
            place = module.get_submodule(owner)
            value = (value.transpose(-1, -2) if transposed else value).contiguous()
            if leaf in place._buffers:
                place._buffers[leaf] = value
                continue
            wanted = trains_gate or not ours.startswith(("gate.weight", "gate.bias", "weight", "bias"))
            setattr(place, leaf, torch.nn.Parameter(value, requires_grad=wanted))
            if wanted:
                self.pairs.append((ours, getattr(place, leaf), transposed))
        unset = [name for name, p in module.named_parameters() if not any(p is q for _, q, _ in self.pairs)
                 and p.requires_grad]
        if unset:
            raise RuntimeError(f"parameters that the case does not set: {unset}")

    def gradients(self):
        for ours, parameter, transposed in self.pairs:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            yield "grads/" + ours, to_numpy(gradient.transpose(-1, -2) if transposed else gradient)


def present(pairs, named, prefix="", into=""):
    return {prefix + ours: (into + theirs, transposed) for ours, (theirs, transposed) in pairs.items()
            if "params/" + prefix + ours in named}


def load_of(ids, mask, experts):
    chosen = torch.zeros(len(ids), experts, dtype=torch.int64).scatter_(1, ids, 1)
    return (chosen * mask[:, None]).sum(0)


def backward(outputs, cotangent, out, loaded, inputs):
    if outputs.requires_grad:  # no token, no path to the parameters
        outputs.backward(cotangent.to(outputs.dtype))
    out.update(loaded.gradients())
    for name, leaf in inputs.items():
        out["grads/" + name] = to_numpy(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)


@port.component("gate")
def gate(config, options, tensors):
    named = to_torch(tensors)
    x = named["inputs/x"]
    check_call(config, options, named, x)
    family = choose([lambda f: "" if f.router else "its router is another function",
                     lambda f: router_objection(f, config, options, config["dtype"])])
    router = Loaded(family.get(family.router)(make_config(family, config, EXPERTS)), present(ROUTER, named), named,
                    config["train_gate"])
    logits, weights, ids = router.module(x)
    mask = named.get("inputs/token_mask", torch.ones(len(x), dtype=torch.bool))
    out = {"outputs/weights": to_numpy(weights), "outputs/indices": to_numpy(ids), "stages/logits": to_numpy(logits),
           "outputs/expert_load": to_numpy(load_of(ids, mask, config["n_routed_experts"]))}
    if tensors.backward:
        backward(weights, named["cotangents/weights"], out, router, {"x": x})
    return out


@port.component("experts")
def experts(config, options, tensors):
    named = to_torch(tensors)
    x, weights, ids = (named["inputs/" + name] for name in ("x", "weights", "indices"))
    check_call(config, options, named, x)
    family = choose([lambda f: experts_objection(f, config)])
    made = make_config(family, {**config, "dim": x.shape[1], "moe_latent_size": None}, EXPERTS)
    pairs = present(EXPERT, named)
    if family.name == "nemotron_h":
        pairs["gate_and_up_projs"] = ("up_proj", True)
    if family.name == "gpt_oss":  # x @ W, as here
        pairs = {ours: (theirs, False) for ours, (theirs, _) in pairs.items()}
    loaded = Loaded(family.get(family.experts)(made), pairs, named)
    # Its experts skip the id one past the last, which expert parallelism uses; masked tokens and absent slots get it.
    mask = named.get("inputs/token_mask", torch.ones(len(x), dtype=torch.bool))
    ids = ids.masked_fill(~mask[:, None] | (ids < 0), config["n_routed_experts"])
    loaded.module._is_expert_parallel = bool((ids == config["n_routed_experts"]).any())
    y = loaded.module(x, ids, weights)
    out = {"outputs/y": to_numpy(y)}
    if tensors.backward:
        backward(y, named["cotangents/y"], out, loaded, {"x": x, "weights": weights})
    return out


@port.component("moe")
def moe(config, options, tensors):
    named = to_torch(tensors)
    x = named["inputs/x"]
    check_call(config, options, named, x)
    if options.get("fake_balanced_gate"):
        raise NotSupported("no fake gate")
    if "inputs/padding_mask" in named and bool(named["inputs/padding_mask"].any()):
        raise NotSupported("its layers know no padding")
    family = choose([lambda f: block_objection(f, config), lambda f: experts_objection(f, config),
                     lambda f: router_objection(f, config, options, config["dtype"])])
    made = make_config(family, config, EXPERTS)
    block = family.get(family.block)
    block = block(made, 0) if family.name == "deepseek_v4" else block(made)
    gate_name = "router" if family.name == "gpt_oss" else "gate"
    pairs = {**present(ROUTER, named, "gate.", gate_name + "."), **expert_pairs(family, named), **shared_pairs(family, named)}
    loaded = Loaded(block, pairs, named, config["train_gate"])
    seen = {}
    block.get_submodule(gate_name).register_forward_hook(
        lambda _, __, given: seen.update(weights=given[1], indices=given[2]) or None)
    shape = x.shape
    y = block(x if x.dim() == 3 else x.reshape(1, -1, shape[-1]))
    y = (y[0] if isinstance(y, tuple) else y).reshape(shape)
    out = {"outputs/y": to_numpy(y), "outputs/weights": to_numpy(seen["weights"]),
           "outputs/indices": to_numpy(seen["indices"])}
    if tensors.backward:
        backward(y, named["cotangents/y"], out, loaded, {"x": x})
    return out


def expert_pairs(family, named):
    pairs = present(EXPERT, named, "experts.", "experts.")
    if family.name == "nemotron_h":
        pairs["experts.gate_and_up_projs"] = ("experts.up_proj", True)
    if family.name == "gpt_oss":
        pairs = {ours: (theirs, False) for ours, (theirs, _) in pairs.items()}
    return pairs


def shared_pairs(family, named):
    theirs = "shared_expert" if family.name == "qwen2_moe" else "shared_experts"
    names = [name[len("params/"):] for name in named if name.startswith("params/shared_expert")
             or name.startswith("params/fc")]
    return {name: (name.replace("shared_experts.", theirs + "."), False) for name in names}


if __name__ == "__main__":
    port.main()
