"""Tunix (JAX): the layer of its Qwen3-MoE, forward."""

from types import SimpleNamespace

import jax.numpy as jnp
import moeref
from flax import nnx
from moeref_port import NotSupported
from tunix.models.qwen3.model import MoELayer, ShardingConfig

import calls

PACKAGES = ["google-tunix", "jax", "flax"]


def is_layer(config):
    if config["n_shared_experts"] > 0 or config["moe_latent_size"] is not None:
        return "it has neither shared experts nor latent projections"
    if not config["norm_topk_prob"] or config["route_scale"] != 1:
        return "its weights are always normalised, and have no scale"
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else calls.declines(config, scores=("softmax",), softmax="before")


@moeref.port("moe", arrays="jax", supports=is_layer)
def moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, padding_mask=None):
    calls.precision(options)
    if x.size == 0:
        raise NotSupported("there are always tokens")
    dtype = getattr(jnp, config["dtype"])
    settings = SimpleNamespace(shd_config=ShardingConfig.get_default_sharding(), num_experts=config["n_routed_experts"],
                               num_experts_per_tok=config["n_activated_experts"], embed_dim=config["dim"],
                               hidden_dim=config["moe_inter_dim"], dtype=dtype, param_dtype=dtype)
    layer = MoELayer(settings, rngs=nnx.Rngs(0))
    layer.router.kernel.value = gate_weight.T
    layer.gate_proj.value, layer.up_proj.value = jnp.split(experts_gate_and_up_projs, 2, axis=-1)
    layer.down_proj.value = experts_down_projs
    y = layer(x.reshape(1, -1, x.shape[-1])).reshape(x.shape)
    return {"y": y if padding_mask is None else jnp.where(padding_mask[..., None], 0, y)}


EXPLAINED = [
    {"kind": "convention", "cases": "top1", "field": "norm_at_top1",
     "what": "One expert is normalised, too: its weight is always 1, and the router has no gradient.",
     "source": ["tunix/models/qwen3/model.py", "routing_weights / jnp.sum(routing_weights, axis=-1, keepdims=True)"]},
]
