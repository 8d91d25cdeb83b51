"""diffusers: the layer of Nucleus-Image, whose experts choose their tokens."""

from unittest import mock

import moeref
import torch
from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoELayer
from torch.func import functional_call

import calls

PACKAGES = ["diffusers", "torch"]
EXPERT_CHOICE = {"softmax_before_topk": True, "norm_topk_prob": True, "norm_after_dropping": True, "norm_eps": 1e-12,
                 "capacity_order": "weight", "n_shared_experts": 1, "shared_expert_inter_dim": None, "shared_expert_gate": False,
                 "shared_expert_activation": "swiglu", "moe_latent_size": None, "router_weights_fp32": False}


def is_layer(config):
    if config["n_activated_experts"] != config["n_routed_experts"]:
        return "every expert chooses among all tokens"
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else calls.declines(config, scores=("softmax",), **EXPERT_CHOICE)


@moeref.port("moe", arrays="torch", autograd=True, supports=is_layer,
             conventions=["norm_after_dropping", "norm_eps", "capacity_order", "capacity_factor", "min_capacity", "expert_capacity"])
def nucleus_moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, shared_experts_gate_proj_weight,
                shared_experts_up_proj_weight, shared_experts_down_proj_weight, padding_mask=None):
    calls.precision(options)
    calls.no_padding(padding_mask)
    tokens = x.reshape(1, -1, x.shape[-1])
    experts, dim = config["n_routed_experts"], config["dim"]
    # Its factor is per expert's share of the tokens, here per share of the slots, of which each token has one per expert.
    factor = config["capacity_factor"] * experts if config["capacity_factor"] else config["expert_capacity"] * experts / tokens.shape[1]
    layer = NucleusMoELayer(dim, config["moe_inter_dim"], experts, factor, False, config["route_scale"])
    held = {"gate.weight": torch.cat((torch.zeros_like(gate_weight), gate_weight), 1),  # a time's share of the logits is 0
            "experts.gate_up_proj": experts_gate_and_up_projs, "experts.down_proj": experts_down_projs,
            "shared_expert.net.0.proj.weight": torch.cat((shared_experts_up_proj_weight, shared_experts_gate_proj_weight)),
            "shared_expert.net.2.weight": shared_experts_down_proj_weight}
    chosen, topk = [], torch.topk
    with mock.patch.object(torch, "topk", lambda scores, **how: chosen.append((scores, topk(scores, **how))) or chosen[0][1]):
        y = functional_call(layer, held, (tokens, tokens, torch.zeros(1, dim, dtype=x.dtype)))
    affinity, taken = chosen[0][0][0].T, torch.zeros(chosen[0][0].shape[1:], dtype=torch.bool)
    taken.scatter_(1, chosen[0][1].indices[0], True)
    ids = affinity.argsort(dim=1, descending=True)
    return {"y": y.reshape(x.shape), "indices": ids, "dispatched_indices": ids.masked_fill(~taken.T.gather(1, ids), -1)}


EXPLAINED = []
