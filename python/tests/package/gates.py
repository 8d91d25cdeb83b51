"""Gates that the tests check: a right one, and one for each thing that may go wrong."""

import os
import time

import numpy as np

import moeref


def scores_of(x, weight):
    logits = x @ weight.T
    logits = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def is_plain(config):
    if config["score_func"] != "softmax" or not config["softmax_before_topk"]:
        return "softmax over all experts only"
    return "no auxiliary loss" if config["aux_loss_coeff"] > 0 else True


def compute(config, x, weight, token_mask=None):
    scores = scores_of(x.astype(np.float64), weight.astype(np.float64))
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, :config["n_activated_experts"]]
    weights = np.take_along_axis(scores, ids, axis=-1)
    if config["norm_topk_prob"] and ids.shape[1] > 1:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    real = ids if token_mask is None else ids[token_mask]
    load = np.bincount(real.ravel(), minlength=config["n_routed_experts"])
    return {"weights": weights * config["route_scale"], "indices": ids, "expert_load": load}


def compute_torch(config, x, weight, token_mask=None):
    """The same in PyTorch, in float32, on the device of the tensors."""
    import torch
    scores = torch.softmax(x.float() @ weight.float().T, dim=-1)
    weights, ids = torch.topk(scores, config["n_activated_experts"])
    if config["norm_topk_prob"] and ids.shape[1] > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    real = ids if token_mask is None else ids[token_mask]
    load = torch.bincount(real.flatten(), minlength=config["n_routed_experts"])
    return {"weights": (weights * config["route_scale"]).to(x.dtype), "indices": ids, "expert_load": load}


@moeref.port("gate", supports=is_plain, accumulation="float64")
def right(config, x, weight, token_mask=None):
    return compute(config, x, weight, token_mask)


@moeref.port("gate", supports=is_plain, accumulation="float64")
def unscaled(config, x, weight, token_mask=None):
    return compute({**config, "route_scale": 1.0}, x, weight, token_mask)


@moeref.port("gate", supports=is_plain)
def crashing(config, x, weight, token_mask=None):
    os.abort()


@moeref.port("gate", supports=is_plain)
def hanging(config, x, weight, token_mask=None):
    time.sleep(3600)


@moeref.port("gate", supports=is_plain)
def raising(config, x, weight, token_mask=None):
    raise RuntimeError("no kernel for this shape")


@moeref.port("gate", supports=lambda config: "nothing at all")
def declining(config, x, weight):
    raise AssertionError("is never called")
