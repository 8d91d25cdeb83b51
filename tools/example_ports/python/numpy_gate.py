#!/usr/bin/env python3
"""The gate in NumPy, forward and backward: an example to start a port from.

    moeref validate --port exec:"python3 tools/example_ports/python/numpy_gate.py" golden/cases/gate__*.h5
    python3 tools/example_ports/python/numpy_gate.py golden/cases out     # then --port results:out
"""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "python"))
from moeref_port import Port

port = Port("numpy-gate", version="1.0", ties="lowest_id", stages=["logits"])


@port.component("gate")
def gate(config, options, tensors):
    x, weight = (tensors[name].astype(compute_type(config, options)) for name in ("inputs/x", "params/weight"))
    mask = tensors.get("inputs/token_mask", np.ones(len(x), bool))
    logits = x @ weight.T
    if config["router_bias"]:
        logits = logits + tensors["params/bias"].astype(logits.dtype)

    func, k = config["score_func"], config["n_activated_experts"]
    after_topk = func == "softmax" and not config["softmax_before_topk"]
    z = logits.astype(score_type(func, options))
    scores = softmax(z) if func.startswith("softmax") else sigmoid(z)
    if func == "sqrtsoftplus":
        scores = np.sqrt(np.logaddexp(0, z))
    choice = logits if after_topk else scores
    seen = scores  # by the weights and by the auxiliary loss
    correction = tensors.get("params/e_score_correction_bias") if func != "softmax" else None
    if correction is not None:
        choice = scores + correction
        if func == "sigmoid" and config["router_weight_uses_score_correction_bias"]:
            seen = choice
    if func not in ("softmax", "sqrtsoftplus") and config["n_expert_groups"] > 1:
        choice = limit_groups(choice, config, correction is not None)
    ids = tensors.get("inputs/replay_indices", top(choice, k))

    picked = softmax(at(z, ids)) if after_topk else at(seen, ids)
    normalise = config["norm_topk_prob"] and k > 1
    total, seen_total = (v.sum(1, keepdims=True) + 1e-20 if normalise else 1 for v in (picked, seen))
    weights = picked / total * config["route_scale"]
    chosen = np.zeros(logits.shape, bool)
    np.put_along_axis(chosen, ids, True, axis=1)
    load = chosen[mask].sum(0)
    out = {"outputs/weights": weights, "outputs/indices": ids, "outputs/expert_load": load, "stages/logits": logits}

    aux, tokens = options["training"] and config["aux_loss_coeff"] > 0, max(mask.sum(), 1)
    share = load * logits.shape[1] / (k * tokens)
    if aux:
        out["outputs/aux_loss"] = share @ ((seen / seen_total)[mask].sum(0) / tokens)
    if not tensors.backward:
        return out

    # Backward. The auxiliary loss sends its own gradient to the scores; the share is a constant to it.
    d_picked = through_sum(picked, total, tensors["cotangents/weights"] * config["route_scale"], normalise)
    d_scores, d_logits = np.zeros_like(scores), np.zeros_like(logits)
    if aux:
        scale = config["aux_loss_coeff"] * options["aux_loss_backward_scale"] / tokens
        d_scores += through_sum(seen, seen_total, scale * np.outer(mask, share), normalise)
    add_at(d_logits if after_topk else d_scores, ids, through_softmax(picked, d_picked) if after_topk else d_picked)
    if func.startswith("softmax"):
        d_logits += through_softmax(scores, d_scores)
    elif func == "sqrtsoftplus":
        d_logits += np.divide(d_scores * sigmoid(z), 2 * scores, out=np.zeros_like(scores), where=scores > 0)
    else:
        d_logits += d_scores * scores * (1 - scores)
    out["grads/x"] = d_logits @ weight
    if config["train_gate"]:
        out["grads/weight"] = d_logits.T @ x
        if config["router_bias"]:
            out["grads/bias"] = d_logits.sum(0)
    return out


def compute_type(config, options):
    wide = "float64" in (config["dtype"], options["gate_precision"])
    return np.float64 if wide else np.float32  # 16-bit types have none in NumPy: the results are the more exact


def score_type(func, options):
    """Score functions run in gate_precision, in float32 without one; sqrtsoftplus always in float32."""
    return np.float64 if options["gate_precision"] == "float64" and func != "sqrtsoftplus" else np.float32


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True)) if z.size else z
    return e / e.sum(1, keepdims=True)


def sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def at(values, ids):
    return np.take_along_axis(values, ids, axis=1)


def add_at(total, ids, values):
    np.add.at(total, (np.arange(len(ids))[:, None], ids), values)


def top(values, k):
    """The k largest of each row, of equal ones the lowest ids; NaN is larger than all."""
    return np.argsort(-np.where(np.isnan(values), np.inf, values), axis=1, kind="stable")[:, :k]


def limit_groups(choice, config, has_correction):
    """What is left to choose from in the best groups; the others are out, or in two score functions at 0."""
    groups = choice.reshape(len(choice), config["n_expert_groups"], -1)
    both = has_correction or config["score_func"] != "sigmoid"
    best = top(np.sort(groups, axis=2)[:, :, -2 if both else -1:].sum(2), config["n_limited_groups"])
    keep = np.zeros(groups.shape[:2], bool)
    np.put_along_axis(keep, best, True, axis=1)
    outside = -np.inf if config["score_func"] == "sigmoid_with_bias" else 0
    return np.where(keep[:, :, None], groups, outside).reshape(choice.shape)


def through_softmax(s, d):
    return s * (d - (s * d).sum(1, keepdims=True))


def through_sum(values, total, d, normalise):
    """The gradient of values / total, where the total is the values' sum."""
    return d / total - (d * values).sum(1, keepdims=True) / total**2 if normalise else d


if __name__ == "__main__":
    port.main()
