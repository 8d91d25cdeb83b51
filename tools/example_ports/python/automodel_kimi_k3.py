"""Kimi K3's layer and its dense experts of NeMo AutoModel (models/kimi_k3/model.py), made from a case's config."""

import types

from nemo_automodel.components.models.kimi_k3.model import KimiK3MLP, KimiK3MoE

from moeref_port import NotSupported

# The layer's own names of parameters that the documented layer has under others, or does not have.
OWN_NAMES = {"fc1_latent_proj.weight": "routed_expert_down_proj.weight",
             "fc2_latent_proj.weight": "routed_expert_up_proj.weight",
             "latent_norm.weight": "routed_expert_norm.weight"}


def is_kimi_k3(config):
    """Whether the layer has what MoE itself does not."""
    return config["latent_norm"] != "none" or (config["n_shared_experts"] > 0 and config["shared_expert_activation"] == "situ")


def text_config(config, inter_dim):
    return types.SimpleNamespace(
        hidden_size=config["dim"], intermediate_size=inter_dim, moe_intermediate_size=inter_dim,
        num_shared_experts=config.get("n_shared_experts", 0), routed_expert_hidden_size=config.get("moe_latent_size"),
        latent_moe_use_norm=config.get("latent_norm") == "before_fc2", rms_norm_eps=config.get("latent_norm_eps"),
        activation_situ_beta=config["situ_beta"], activation_situ_linear_beta=config["situ_linear_beta"] or None)


def declines(config, options, replay):
    """Why the layer is not this one, or None."""
    if config["latent_norm"] == "after_fc1" or config["moe_latent_size"] is None:
        return "its latent rows are normalised before they return, and there are always such rows"
    if config["expert_activation"] != "situ" or (config["n_shared_experts"] and config["shared_expert_activation"] != "situ"):
        return "all its experts are SiTU"
    if config["expert_bias"] or config["router_bias"] or config["shared_expert_gate"]:
        return "it has neither biases nor a gate of shared experts"
    if options.get("fake_balanced_gate"):
        return None
    if config["score_func"] not in ("sigmoid_with_bias", "softmax_with_bias"):
        return "its router takes no other score function than the two with a correction bias"
    if replay or (config["aux_loss_coeff"] > 0 and options["training"]):
        return "its router neither replays nor has a loss"
    if options["gate_precision"] != "float32" or not config["router_weights_fp32"]:
        return "its router computes and weighs in float32"
    return None


def layer(config, options, moe_config, backend, replay):
    if reason := declines(config, options, replay):
        raise NotSupported(reason)
    inter_dim = config["shared_expert_inter_dim"] or config["moe_inter_dim"]
    return KimiK3MoE(text_config(config, inter_dim), moe_config, backend)


def mlp(config, dtype):
    if config["bias"]:
        raise NotSupported("its SiTU MLP has no biases")
    return KimiK3MLP(text_config(config, config["inter_dim"]), dtype=dtype)


def renamed(named):
    """The case's tensors with parameters under the layer's own names."""
    out = {}
    for name, tensor in named.items():
        group, _, parameter = name.partition("/")
        out[f"{group}/{OWN_NAMES.get(parameter, parameter)}" if group == "params" else name] = tensor
    return out


def documented_names(parameters):
    back = {own: documented for documented, own in OWN_NAMES.items()}
    return {back.get(name, name): parameter for name, parameter in parameters.items()}
