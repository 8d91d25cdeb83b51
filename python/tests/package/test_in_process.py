"""The reference and the judge on arrays of this process."""

import sys
import time

import numpy as np
import pytest

import gates
import moeref
from moeref.arrays import bits_of, values_of

CONFIG = {"n_routed_experts": 8, "n_shared_experts": 0, "n_activated_experts": 2, "n_expert_groups": 1,
          "n_limited_groups": 1, "train_gate": True, "gate_bias_update_factor": 0.0, "score_func": "softmax",
          "softmax_before_topk": True, "route_scale": 2.5, "aux_loss_coeff": 0.0, "norm_topk_prob": True, "dim": 16,
          "inter_dim": 32, "moe_inter_dim": 32, "dtype": "float32"}


def gate_tensors(tokens=5, experts=8, dim=16, seed=3):
    draw = np.random.default_rng(seed)
    return {"inputs/x": draw.standard_normal((tokens, dim), dtype=np.float32),
            "params/weight": draw.standard_normal((experts, dim), dtype=np.float32)}


def results_of(config, tensors):
    out = gates.compute(config, tensors["inputs/x"], tensors["params/weight"])
    return {f"outputs/{name}": array for name, array in out.items()}


def test_reference_gives_values_and_bounds():
    tensors = gate_tensors()
    found = moeref.reference("gate", CONFIG, tensors)
    want = results_of(CONFIG, tensors)
    weights = found["outputs/weights"]
    assert weights.value.dtype == np.float64 and weights.bound.dtype == np.float32 and weights.dtype == "float32"
    assert (weights.bound > 0).all() and (weights.bound < 1e-3).all()
    np.testing.assert_allclose(weights.value, want["outputs/weights"], rtol=1e-12)
    np.testing.assert_array_equal(found["outputs/indices"].value, want["outputs/indices"])
    assert (found["outputs/indices"].bound == 0).all()


def test_gradients_come_where_cotangents_are_given():
    tensors = gate_tensors()
    assert not any(name.startswith("grads/") for name in moeref.reference("gate", CONFIG, tensors))
    tensors["cotangents/weights"] = np.ones((5, 2), np.float32)
    assert moeref.reference("gate", CONFIG, tensors)["grads/x"].value.shape == (5, 16)


def test_judge_passes_the_right_and_names_the_wrong_element():
    tensors = gate_tensors()
    results = results_of(CONFIG, tensors)
    verdict = moeref.judge("gate", CONFIG, tensors, results)
    assert verdict and verdict.verdict == "PASS" and verdict.first_failure is None and verdict.tokens == 5
    results["outputs/weights"][3, 1] += 0.01
    verdict = moeref.judge("gate", CONFIG, tensors, results)
    assert not verdict
    assert verdict.first_failure.tensor == "outputs/weights" and verdict.first_failure.index == 7
    assert verdict.first_failure.ratio > 100
    assert "FAIL outputs/weights[7] = " in str(verdict)


def test_a_missing_result_fails():
    tensors = gate_tensors()
    results = results_of(CONFIG, tensors)
    del results["outputs/expert_load"]
    verdict = moeref.judge("gate", CONFIG, tensors, results)
    assert verdict.first_failure.tensor == "outputs/expert_load" and "missing" in verdict.first_failure.finding


def test_bad_input_is_one_line_that_names_the_tensor():
    with pytest.raises(moeref.InputError, match="params/weight"):
        moeref.reference("gate", CONFIG, {"inputs/x": gate_tensors()["inputs/x"]})
    with pytest.raises(TypeError, match="inputs/x has dtype complex64"):
        moeref.call("gate", CONFIG, {**gate_tensors(), "inputs/x": np.zeros((5, 16), np.complex64)})


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_dense_arrays_are_not_copied(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    tensors = {name: array.astype(dtype) for name, array in gate_tensors().items()}
    tensors["inputs/x"].flags.writeable = False
    held = moeref.call("gate", CONFIG, tensors).handle.arrays()
    for name, array in tensors.items():
        assert address(held[name][0]) == address(array), name
        assert held[name][1] == np.dtype(dtype).name
    del tensors, array  # the call keeps the memory
    assert np.isfinite(values_of(*held["inputs/x"]).astype(np.float32)).all()


def test_other_layouts_are_copied_and_mean_the_same():
    tensors = gate_tensors()
    other = {name: np.asfortranarray(array) for name, array in tensors.items()}
    other["params/weight"] = np.repeat(tensors["params/weight"], 2, axis=0)[::2]
    swapped = {**tensors, "inputs/x": tensors["inputs/x"].astype(">f4")}
    want = moeref.reference("gate", CONFIG, tensors)["outputs/weights"].value
    for given in (other, swapped):
        np.testing.assert_array_equal(moeref.reference("gate", CONFIG, given)["outputs/weights"].value, want)


def test_bfloat16_keeps_every_bit():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.arange(0, 0x7F80, 7, dtype=np.uint16)
    array = bits.view(ml_dtypes.bfloat16)
    crossed, dtype = bits_of("x", array)
    np.testing.assert_array_equal(crossed, bits)
    np.testing.assert_array_equal(values_of(crossed, dtype), array.astype(np.float32))


def test_no_framework_is_imported():
    code = ("import sys, numpy as np, moeref; c = moeref.draw('gate', seed=1); moeref.reference(c); "
            "print([m for m in ('torch', 'jax', 'ml_dtypes') if m in sys.modules])")
    import subprocess
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("component", ["gate", "experts", "moe", "mlp", "aux_loss", "bias_update", "metrics"])
def test_draw_is_the_same_for_the_same_seed_and_line(component):
    one, two = moeref.draw(component, seed=5), moeref.draw(component, seed=5)
    assert one.line == two.line != moeref.draw(component, seed=6).line
    again = moeref.draw(line=one.line)
    assert again.config == one.config and again.tensors.keys() == one.tensors.keys()
    for name, array in one.tensors.items():
        np.testing.assert_array_equal(array, again.tensors[name])
    assert moeref.reference(one).keys()


def test_draw_at_kernel_scale_has_its_widths():
    tokens = [moeref.draw("gate", scale="kernel", seed=seed, backward=False).tensors["inputs/x"].shape
              for seed in range(3)]
    assert all(shape[0] >= 100 and shape[1] >= 500 for shape in tokens), tokens


def test_a_gate_of_4096_tokens_is_judged_in_a_second():
    config = {**CONFIG, "n_routed_experts": 128, "n_activated_experts": 8, "dim": 1024}
    tensors = gate_tensors(4096, 128, 1024)
    results = results_of(config, tensors)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        assert moeref.judge("gate", config, tensors, results).verdict == "PASS"
        seconds.append(time.perf_counter() - began)
    print(f"judged in {min(seconds):.2f} s")
    assert min(seconds) < 4.0  # about 1 s on two idle cores; a busy machine takes longer
