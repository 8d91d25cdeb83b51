"""What ports of public implementations share: what a package cannot be asked for, and the load of the experts."""

import numpy as np

from moeref_port import NotSupported


def declines(config, *, scores, groups=False, correction_bias=False, router_bias=False, softmax=None, **fixed):
    """Why a router cannot be given this config, or True; `softmax` is "before" or "after" the choice of experts, or
    None for both, and `fixed` are fields that the package fixes."""
    if config["score_func"] not in scores:
        return f"its score function is not {config['score_func']}"
    normalised = config["norm_topk_prob"] and config["n_activated_experts"] > 1
    # Over all experts and then normalised is the same as over the chosen ones.
    if config["score_func"] == "softmax" and softmax and config["softmax_before_topk"] != (softmax == "before") \
            and not (softmax == "after" and normalised):
        return f"its softmax comes {softmax} the choice of experts"
    if config["n_expert_groups"] > 1 and config["score_func"] != "softmax" and not groups:
        return "it has no groups of experts"
    if has_correction_bias(config) and not correction_bias:
        return "it has no correction bias"
    if has_correction_bias(config) and config["score_func"] == "softmax":
        return "softmax scores are chosen with the bias, too"
    if config["router_bias"] and not router_bias:
        return "its router has no bias"
    if config["aux_loss_coeff"] > 0:
        return "the auxiliary loss is computed outside of the layer"
    if config["gate_dtype"] not in (None, config["dtype"]):
        return "its router has the layer's type"
    if config["router_weight_uses_score_correction_bias"]:
        return "its weights have no correction bias"
    if not config["train_gate"]:
        return "its router is trained"
    for name, value in fixed.items():
        if config[name] != value:
            return f"its {name} is always {value}"
    return True


def has_correction_bias(config):
    return config["gate_bias_update_factor"] > 0 or config["force_e_score_correction_bias"]


def sums_two(config):
    """Whether a group's score is the sum of its two largest, else it is the largest."""
    return config["score_func"] != "sigmoid" or has_correction_bias(config)


def experts_decline(config, *activations, expert_bias=False):
    """Why experts cannot be given this config, or True; "swiglu_limit" is swiglu with a limit."""
    limited = config["expert_activation"] == "swiglu" and config["swiglu_limit"] > 0
    activation = "swiglu_limit" if limited else config["expert_activation"]
    if activation not in activations:
        return f"its experts have no {activation}"
    if config["expert_bias"] != expert_bias:
        return "its experts have " + ("a bias" if expert_bias else "no bias")
    return True


def precision(options, *computed_in):
    """Raises NotSupported where the router shall compute in another type, or something else is asked."""
    if options["gate_precision"] not in (None, *computed_in):
        raise NotSupported(f"its router does not compute in {options['gate_precision']}")
    plain = {"training": (True, False), "ep_size": (1,), "cp_size": (1,), "dp_size": (1,), "fake_balanced_gate": (False,)}
    for name, values in plain.items():
        if options[name] not in values:
            raise NotSupported(f"the port takes no {name} = {options[name]}")


def one_type(x, weight):
    if x.dtype != weight.dtype:
        raise NotSupported("its router has the tokens' type")


def gate_results(weights, ids, config, mask=None):
    """Weights and ids with the number of real tokens of each expert."""
    real = np.asarray(ids if mask is None else ids[mask])
    load = np.bincount(real.ravel(), minlength=config["n_routed_experts"])
    return {"weights": weights, "indices": ids, "expert_load": load}


def with_loss(weights, loss):
    """Weights whose gradient brings the loss its own of 1, as where a training loop adds the loss to its own."""
    import torch

    class Attached(torch.autograd.Function):
        @staticmethod
        def forward(context, weights, loss):
            return weights.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient, gradient.new_ones((), dtype=loss.dtype)

    return Attached.apply(weights, loss)


def of_real_tokens(function, x, weights, ids, mask):
    """function(x, weights, ids) of the tokens that are no padding; zeros for the others, which it never sees."""
    if (ids < 0).any():
        raise NotSupported("every token has k experts")
    if mask is None or mask.all():
        return function(x, weights, ids)
    return x.new_zeros(x.shape).index_put((mask,), function(x[mask], weights[mask], ids[mask]))


def no_padding(mask):
    if mask is not None and mask.any():
        raise NotSupported("it knows no padding")


def gate_up(projections):
    """[E, D, 2 I] as the weights of two linear layers, [E, I, D] each."""
    return (part.transpose(1, 2) for part in projections.chunk(2, dim=2))


def weight_after_down(*source, ports=None, how=""):
    """The explanation of gradients in 16 bits that differ since the package weighs what its experts put out; `source` is
    a file and the line that does it."""
    row = {"kind": "convention", "finding": "grads/", "field": "apply_router_weight_after_down",
           "what": f"The routing weight multiplies the expert's output{how}, so that backward rounds (cotangent x weight) to "
                   "bfloat16 before a product in which it cancels.",
           "source": list(source)}
    return {**row, "ports": ports} if ports else row


def megatron_loss_of_padding(ports):
    """The explanation of a loss of NaN, in every release of Megatron-Core that is asked."""
    return {"kind": "bug", "ports": ports, "finding": "nan",
            "what": "A batch of padding alone gives a loss of NaN: 0 / 0, where no token has no loss.",
            "source": ["megatron/core/transformer/moe/moe_utils.py", "num_experts * moe_aux_loss_coeff / (topk * total_num_tokens"]}


def erf(ports):
    """The explanation of GELU in float32 where PyTorch's erf shows."""
    return {"kind": "rounding", "ports": ports, "cases": "activations_beyond", "finding": "closed form",
            "what": "PyTorch's GELU on a CPU takes erf by Abramowitz and Stegun 7.1.26, which errs by up to 1.5e-7: 1 + erf of a negative "
                    "number shows it.",
            "source": ["torch/include/ATen/cpu/vec/vec256/vec256_float.h", "0.3275911f"]}
