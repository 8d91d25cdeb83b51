#!/usr/bin/env python3
"""Kimi K3's layer of mlx-lm (mlx_lm/models/kimi_k3.py) as a port, on MLX's CPU backend, forward alone.

    moeref validate --forward-only --port exec:"python3 tools/example_ports/python/mlx_kimi_k3.py" golden/cases
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "python"))
try:
    import mlx.core as mx
    import numpy as np
    from mlx_lm.models.kimi_k3 import KimiK3MLP, KimiK3SparseMoE, TextArgs
except ImportError as error:
    print(f"mlx_kimi_k3.py needs mlx and mlx_lm: {error}", file=sys.stderr)
    sys.exit(2)

from moeref_port import NotSupported, Port

port = Port("mlx-kimi-k3", passes=["forward"], ties="open", dtypes=["float32"],  # of its gather_mm on a CPU
            conventions=["situ", "situ_beta", "situ_linear_beta", "latent_norm", "latent_norm_eps", "discarded_groups"])


def text_args(config, **fields):
    return TextArgs(hidden_size=config["dim"], activation_situ_beta=config["situ_beta"],
                    activation_situ_linear_beta=config["situ_linear_beta"] or None, **fields)


def load(module, tensors, names, prefix="params/"):
    """The case's parameters under the module's own names."""
    weights = [(names.get(name[len(prefix):], name[len(prefix):]), mx.array(np.asarray(array, dtype=np.float32)))
               for name, array in tensors.items() if name.startswith(prefix)]
    module.load_weights(weights, strict=True)
    return module


@port.component("mlp")
def mlp(config, options, tensors):
    if config["activation"] != "situ" or config["bias"]:
        raise NotSupported("its MLP is SiTU without biases")
    module = load(KimiK3MLP(text_args(config), config["inter_dim"]), tensors, {})
    return {"outputs/y": np.array(module(mx.array(tensors["inputs/x"])))}


def declines(config, options, tensors):
    if config["latent_norm"] == "after_fc1":
        return "its latent rows are normalised before they return"
    if config["expert_activation"] != "situ" or (config["n_shared_experts"] and config["shared_expert_activation"] != "situ"):
        return "all its experts are SiTU"
    if config["expert_bias"] or config["router_bias"] or config["shared_expert_gate"]:
        return "it has neither biases nor a gate of shared experts"
    if config["score_func"] not in ("sigmoid", "sigmoid_with_bias") or config["aux_loss_coeff"] > 0:
        return "its router is a sigmoid without a loss"
    if config["n_expert_groups"] > 1 and config["discarded_groups"] != "zero":
        return "experts of discarded groups score 0"
    if not config["apply_router_weight_after_down"]:
        return "routing weights multiply what experts give"
    if (config["shared_expert_inter_dim"] or config["moe_inter_dim"]) != config["moe_inter_dim"]:
        return "shared experts are as wide as the others"
    if options["fake_balanced_gate"] or "inputs/replay_indices" in tensors:
        return "there is always a selection"
    if options["gate_precision"] not in (None, "float32"):
        return "it computes in the layer's type"
    if "inputs/padding_mask" in tensors and tensors["inputs/padding_mask"].any():
        return "it knows no padding"
    return None


@port.component("moe")
def moe(config, options, tensors):
    if reason := declines(config, options, tensors):
        raise NotSupported(reason)
    latent = config["moe_latent_size"]
    module = KimiK3SparseMoE(text_args(
        config, num_experts=config["n_routed_experts"], num_experts_per_token=config["n_activated_experts"],
        num_shared_experts=config["n_shared_experts"], moe_intermediate_size=config["moe_inter_dim"],
        moe_renormalize=config["norm_topk_prob"], routed_scaling_factor=config["route_scale"],
        num_expert_group=config["n_expert_groups"], topk_group=config["n_limited_groups"], routed_expert_hidden_size=latent,
        latent_moe_use_norm=config["latent_norm"] == "before_fc2", rms_norm_eps=config["latent_norm_eps"]))
    given = dict(tensors)
    gate, up = np.split(np.asarray(given.pop("params/experts.gate_and_up_projs")), 2, -1)
    for name, weight in (("gate", gate), ("up", up), ("down", np.asarray(given.pop("params/experts.down_projs")))):
        given[f"params/switch_mlp.{name}_proj.weight"] = np.ascontiguousarray(weight.transpose(0, 2, 1))
    given.setdefault("params/gate.e_score_correction_bias", np.zeros(config["n_routed_experts"], np.float32))
    load(module, given, {"fc1_latent_proj.weight": "routed_expert_down_proj.weight",
                         "fc2_latent_proj.weight": "routed_expert_up_proj.weight",
                         "latent_norm.weight": "routed_expert_norm.weight",
                         "gate.e_score_correction_bias": "e_score_correction_bias"})
    return {"outputs/y": np.array(module(mx.array(np.asarray(tensors["inputs/x"], dtype=np.float32))))}


if __name__ == "__main__":
    port.main()
