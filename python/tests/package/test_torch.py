"""Torch's arrays, and its modules as ports."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gates  # noqa: E402
import moeref  # noqa: E402
from test_in_process import CONFIG, address, gate_tensors  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_are_not_copied(dtype):
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in gate_tensors().items()}
    held = moeref.call("gate", CONFIG, tensors).handle.arrays()
    for name, tensor in tensors.items():
        assert address(held[name][0]) == tensor.data_ptr() and held[name][1] == dtype
    found = moeref.reference("gate", CONFIG, tensors)["outputs/weights"]
    assert isinstance(found.value, torch.Tensor) and found.value.dtype == torch.float64


@moeref.port("gate", arrays="torch", autograd=True, supports=gates.is_plain)
def torch_gate(config, x, weight, token_mask=None):
    scores = torch.softmax(x.float() @ weight.float().T, dim=-1)
    weights, ids = torch.topk(scores, config["n_activated_experts"])
    if config["norm_topk_prob"] and ids.shape[1] > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    real = ids if token_mask is None else ids[token_mask]
    load = torch.bincount(real.flatten(), minlength=config["n_routed_experts"])
    return {"weights": (weights * config["route_scale"]).to(x.dtype), "indices": ids, "expert_load": load}


class Mlp(torch.nn.Module):
    """Gate, up and down projections, as many models have them."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = torch.nn.Linear(config["dim"], config["inter_dim"], bias=False)
        self.up_proj = torch.nn.Linear(config["dim"], config["inter_dim"], bias=False)
        self.down_proj = torch.nn.Linear(config["inter_dim"], config["dim"], bias=False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def is_silu_mlp(config):
    return "swiglu without limit only" if config["activation"] != "swiglu" or config.get("swiglu_limit") else True


class NoDown(Mlp):
    def forward(self, x):
        return self.down_proj(self.up_proj(x))


NAMES = {f"{name}.weight": f"{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}
mlp = moeref.module_port(Mlp, NAMES, component="mlp", supports=is_silu_mlp)
wrong_mlp = moeref.module_port(NoDown, NAMES, component="mlp", supports=is_silu_mlp)


def test_a_torch_gate_passes_with_autograds_gradients():
    report = moeref.check(torch_gate, cases=20, seed=1, isolated=False)
    assert any("grad" in result.item.name and result.ran for result in report.results)


def test_a_module_passes_with_its_gradients():
    report = moeref.check(mlp, cases=30, seed=1, isolated=False)
    assert report.passed


def test_a_wrong_module_fails():
    with pytest.raises(moeref.CheckFailed, match="outputs/y"):
        moeref.check(wrong_mlp, cases=30, seed=1, isolated=False)


def test_a_module_of_one_size_declines_other_sizes():
    one = moeref.module_port(Mlp({"dim": 3, "inter_dim": 5}), NAMES, component="mlp", supports=is_silu_mlp)
    with pytest.raises(moeref.CheckFailed, match="has another shape"):
        moeref.check(one, cases=5, seed=1, isolated=False, goldens=False)
