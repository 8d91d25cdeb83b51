"""JAX's arrays."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import gates  # noqa: E402
import moeref  # noqa: E402
from moeref.checking import items_of, run_item  # noqa: E402
from moeref.opened_port import OpenedPort  # noqa: E402
from test_in_process import CONFIG, gate_tensors  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_mean_what_they_mean_in_numpy(dtype):
    tensors = gate_tensors()
    given = {name: jnp.asarray(array, dtype=dtype) for name, array in tensors.items()}
    same = {name: np.asarray(array, dtype=np.float32) for name, array in given.items()}
    found = moeref.reference("gate", {**CONFIG, "dtype": dtype}, given)["outputs/weights"]
    assert isinstance(found.value, jax.Array) and found.dtype == dtype
    want = moeref.reference("gate", CONFIG, same)["outputs/weights"]
    if dtype == "float32":
        np.testing.assert_allclose(np.asarray(found.value), want.value, rtol=1e-6)


@moeref.port("gate", arrays="jax", supports=gates.is_plain)
def jax_gate(config, x, weight, token_mask=None):
    logits = x.astype(jnp.float32) @ weight.astype(jnp.float32).T
    weights, ids = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), config["n_activated_experts"])
    if config["norm_topk_prob"] and ids.shape[1] > 1:
        weights = weights / weights.sum(-1, keepdims=True)
    real = ids if token_mask is None else ids[token_mask]
    load = jnp.bincount(real.ravel(), length=config["n_routed_experts"])
    return {"weights": (weights * config["route_scale"]).astype(x.dtype), "indices": ids, "expert_load": load}


@pytest.mark.parametrize("name", ["cases/gate__softmax_before_topk_scale", "cases/gate__bf16_softmax_before_topk"])
def test_a_jax_gate_passes_golden_cases(name):
    item = next(item for item in items_of("gate") if item.name == name)
    assert run_item(OpenedPort(jax_gate), item).status == "PASS"
