"""ONNX Runtime: the operator com.microsoft.MoE on the CPU, forward; it takes logits, and routes itself."""

import moeref
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from moeref_port import NotSupported

PACKAGES = ["onnxruntime", "onnx"]


def declines(config):
    if config["expert_activation"] not in ("swiglu", "swigluoai", "quick_geglu"):
        return f"its experts here have no {config['expert_activation']}"
    if config["swiglu_limit"] > 0 and config["expert_activation"] == "swiglu":
        return "its limit clamps before the factor of the sigmoid, too"
    if config["expert_activation"] != "swiglu" and config["activation_limit"] <= 0:
        return "its swiglu with alpha has a limit"
    return True


def session(config, arrays, k):
    """The operator, with the softmax over the chosen experts alone (normalize_routing_weights)."""
    alpha, beta, limit = 1.0, 0.0, {}
    if config["expert_activation"] != "swiglu":
        alpha, beta, limit = config["activation_alpha"], 1.0, {"swiglu_limit": config["activation_limit"]}
    names = [name if name in arrays else "" for name in ("x", "logits", "fc1", "fc1_bias", "fc2", "fc2_bias")]
    node = helper.make_node("MoE", names, ["y"], domain="com.microsoft", k=k, activation_type="swiglu", swiglu_fusion=1,
                            normalize_routing_weights=1, activation_alpha=alpha, activation_beta=beta, **limit)
    value = lambda name, like: helper.make_tensor_value_info(name, TensorProto.FLOAT, arrays[like].shape)  # noqa: E731
    graph = helper.make_graph([node], "moe", [value(name, name) for name in arrays], [value("y", "x")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def interleaved(config, halves):
    """[..., gate | up] as g0 u0 g1 u1 ..., which is the layout of quick_geglu in both."""
    if config["expert_activation"] == "quick_geglu":
        return halves
    return np.stack(np.split(halves, 2, axis=-1), axis=-1).reshape(halves.shape)


@moeref.port("experts", dtypes=["float32"], supports=declines)
def experts(config, x, weights, indices, gate_and_up_projs, down_projs, gate_up_proj_bias=None, down_proj_bias=None,
            token_mask=None):
    """The operator gets logits whose softmax over the chosen experts is the token's weights, but for their sum."""
    real = np.ones(len(x), bool) if token_mask is None else token_mask
    ids, given = indices[real], weights[real]
    total = given.sum(-1, keepdims=True)
    if (ids < 0).any() or any(len(set(row)) < len(row) for row in ids.tolist()):
        raise NotSupported("every token has k experts, each once")
    if not (given > 0).all() or not np.isfinite(total).all() or not real.any():
        raise NotSupported("its weights are a softmax's")
    logits = np.full((len(ids), config["n_routed_experts"]), -1e30, dtype=np.float32)
    np.put_along_axis(logits, ids, np.log(given / total), axis=1)
    arrays = {"x": x[real], "logits": logits, "fc1": interleaved(config, gate_and_up_projs).transpose(0, 2, 1),
              "fc2": down_projs.transpose(0, 2, 1)}
    if gate_up_proj_bias is not None:
        arrays.update(fc1_bias=interleaved(config, gate_up_proj_bias), fc2_bias=down_proj_bias)
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
    y = np.zeros_like(x)
    y[real] = session(config, arrays, ids.shape[1]).run(None, arrays)[0] * total
    return {"y": y}


EXPLAINED = []
