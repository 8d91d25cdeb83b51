"""Tensors on a CUDA device: judged there, and given to ports."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

import moeref  # noqa: E402
from moeref.checking import items_of, run_item  # noqa: E402
from moeref.opened_port import OpenedPort  # noqa: E402
from test_in_process import CONFIG, gate_tensors  # noqa: E402
import gates  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_call_of_cuda_tensors_is_that_of_cpu_tensors(dtype):
    config = {**CONFIG, "dtype": dtype}
    here = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in gate_tensors().items()}
    there = {name: tensor.cuda() for name, tensor in here.items()}
    want, found = moeref.reference("gate", config, here), moeref.reference("gate", config, there)
    for name, one in want.items():
        np.testing.assert_array_equal(one.value.numpy(), found[name].value.numpy())
    results = {name: one.value.to(getattr(torch, one.dtype)).cuda()
               for name, one in want.items() if name.startswith("outputs/")}
    assert moeref.judge("gate", config, there, results)
    results["outputs/weights"] = results["outputs/weights"] * 1.5
    assert moeref.judge("gate", config, there, results).first_failure.tensor == "outputs/weights"


@moeref.port("gate", arrays="torch", autograd=True, device="cuda", supports=gates.is_plain)
def cuda_gate(config, x, weight, token_mask=None):
    assert x.is_cuda and weight.is_cuda
    return gates.compute_torch(config, x, weight, token_mask)


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("name", ["cases/gate__softmax_before_topk_scale", "cases/gate__bf16_softmax_before_topk"])
def test_a_port_gets_tensors_on_the_device_also_in_a_child(name, isolated):
    item = next(item for item in items_of("gate") if item.name == name)
    assert run_item(OpenedPort(cuda_gate, isolated=isolated), item).status == "PASS"
