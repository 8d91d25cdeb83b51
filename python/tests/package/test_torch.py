"""Torch's arrays, and its modules as ports."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gates  # noqa: E402
import moeref  # noqa: E402
from moeref.checking import items_of, run_item  # noqa: E402
from moeref.opened_port import OpenedPort  # noqa: E402
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
    return gates.compute_torch(config, x, weight, token_mask)


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


@moeref.port("gate", arrays="torch", autograd=True, supports=gates.is_plain)
def detached_gate(config, x, weight, token_mask=None):
    return torch_gate(config, x, weight.detach(), token_mask)


CASE = "cases/gate__softmax_before_topk_scale"


def golden(port, name):
    item = next(item for item in items_of(port.component) if item.name == name)
    return run_item(OpenedPort(port, isolated=False), item)


def test_gradients_are_autograds():
    assert golden(torch_gate, CASE).status == "PASS"
    wrong = golden(detached_gate, CASE)
    assert wrong.status == "FAIL" and "grads/weight" in wrong.finding
    assert golden(torch_gate, "cases/gate__bf16_softmax_before_topk").status == "PASS"


@moeref.port("gate", arrays="torch", autograd=True, device="meta", supports=gates.is_plain)
def elsewhere(config, x, weight, token_mask=None):
    raise AssertionError(f"tensors on {x.device} and {weight.device}")


def test_a_port_gets_its_tensors_on_the_device_that_it_names():
    assert "tensors on meta and meta" in golden(elsewhere, CASE).finding
    with pytest.raises(TypeError, match="device needs arrays"):
        moeref.port("gate", device="cuda")(lambda config, x: None)


def test_a_module_passes_with_its_gradients():
    assert golden(mlp, "cases/mlp__batch").status == "PASS"
    assert moeref.check(mlp, cases=20, seed=1, properties=["linear_adjoint", "split_rows"], goldens=False, isolated=False).passed


def test_a_wrong_module_fails():
    wrong = golden(wrong_mlp, "cases/mlp__batch")
    assert wrong.status == "FAIL" and "outputs/y" in wrong.finding


def test_a_module_of_one_size_declines_other_sizes():
    one = moeref.module_port(Mlp({"dim": 3, "inter_dim": 5}), NAMES, component="mlp", supports=is_silu_mlp)
    result = golden(one, "cases/mlp__batch")
    assert result.status == "NOT_SUPPORTED" and "has another shape" in str(result.reasons)
