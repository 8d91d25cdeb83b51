"""Quantised weights and rows against other implementations on the CPU, to the bit: codes, packing, scales, what they stand for.

Each test is skipped where its package is not installed: ml_dtypes, torchao, compressed-tensors, transformers.
"""

import numpy as np
import pytest

import moeref

FORMATS = ["fp8_e4m3_block128", "mxfp8", "mxfp4", "nvfp4", "int4_group32", "int4_group128"]


def plain_call(experts=2, dim=256, inter=128, seed=1):
    """Weights of very different sizes from block to block, values of bfloat16; one block of zeros."""
    draw = np.random.default_rng(seed)
    config = {"n_routed_experts": experts, "n_shared_experts": 0, "n_activated_experts": 1, "n_expert_groups": 1,
              "n_limited_groups": 1, "train_gate": True, "gate_bias_update_factor": 0.0, "aux_loss_coeff": 0.0,
              "score_func": "softmax", "route_scale": 1.0, "dim": dim, "inter_dim": inter, "moe_inter_dim": inter,
              "norm_topk_prob": False, "dtype": "float32"}

    def weights(*shape):
        values = (0.05 * draw.standard_t(2, shape)).astype(np.float32)
        values[-1, :128, :128] = 0.0
        return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)

    return moeref.call("experts", config, {
        "inputs/x": draw.standard_normal((3, dim), dtype=np.float32),
        "inputs/weights": np.ones((3, 1), np.float32),
        "inputs/indices": np.zeros((3, 1), np.int64),
        "params/gate_and_up_projs": weights(experts, dim, 2 * inter),
        "params/down_projs": weights(experts, inter, dim)})


class Quantised:
    """One format's tensors of gate_and_up_projs, the weights by output [E, N, K], and the numbers that came of them."""

    def __init__(self, weight_format, **sizes):
        call = plain_call(**sizes)
        quantised = call.quantised(weight_format)
        name = "params/gate_and_up_projs"
        self.call, tensors = quantised, quantised.tensors
        self.weights = np.ascontiguousarray(call.tensors[name].transpose(0, 2, 1))
        self.codes, self.scales = tensors[name + "_codes"], tensors[name + "_scales"]
        self.expert_scales = tensors.get(name + "_expert_scales")
        self.numbers = quantised.dequantised().tensors[name].transpose(0, 2, 1)

    def nibbles(self):
        flat = self.codes.reshape(*self.codes.shape[:2], -1)
        return np.stack([flat & 15, flat >> 4], axis=-1).reshape(*flat.shape[:2], -1)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_the_reference_takes_codes(weight_format):
    quantised = plain_call().quantised(weight_format)
    assert quantised.config["weight_format"] == weight_format
    assert quantised.dtypes["params/down_projs_codes"] == "uint8"
    codes = moeref.reference(quantised)["outputs/y"]
    numbers = moeref.reference(quantised.dequantised())["outputs/y"]
    np.testing.assert_array_equal(codes.value, numbers.value)
    assert moeref.judge(quantised, results={"outputs/y": numbers.value.astype(np.float32)})


def test_codes_come_from_arrays_of_the_caller():
    quantised = plain_call().quantised("mxfp4")
    again = moeref.call("experts", quantised.config, dict(quantised.tensors))
    np.testing.assert_array_equal(moeref.reference(again)["outputs/y"].value,
                                  moeref.reference(quantised)["outputs/y"].value)


def test_a_format_that_there_is_none_of():
    with pytest.raises(moeref.InputError, match="'fp3' is no format of quantised weights"):
        plain_call().quantised("fp3")


def test_e4m3_and_e8m0_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of = Quantised("mxfp8")
    scales = of.scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    elements = of.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(of.numbers, elements * np.repeat(scales, 32, axis=-1))
    saturated = np.clip(of.weights / np.repeat(scales, 32, axis=-1).astype(np.float32), -448, 448)
    np.testing.assert_array_equal(of.codes, saturated.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_every_code_of_e4m3_by_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    call = plain_call(dim=256, inter=128).quantised("fp8_e4m3_block128")
    tensors = dict(call.tensors)
    codes = np.array([c for c in range(256) if c & 127 != 127], np.uint8)
    name = "params/down_projs"
    tensors[name + "_codes"] = np.resize(codes, tensors[name + "_codes"].shape)
    tensors[name + "_scales"] = np.ones_like(tensors[name + "_scales"])
    numbers = moeref.call("experts", call.config, tensors).dequantised().tensors[name].transpose(0, 2, 1)
    np.testing.assert_array_equal(
        numbers, tensors[name + "_codes"].view(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_e2m1_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of = Quantised("mxfp4")
    elements = of.nibbles().view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scales = of.scales.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    np.testing.assert_array_equal(of.numbers, elements * np.repeat(scales, 32, axis=-1))
    scaled = np.clip(of.weights / np.repeat(scales, 32, axis=-1).astype(np.float32), -6, 6)
    np.testing.assert_array_equal(of.nibbles(), scaled.astype(ml_dtypes.float4_e2m1fn).view(np.uint8))


@pytest.mark.parametrize("weight_format, element", [("mxfp8", "float8_e4m3fn"), ("mxfp4", "float4_e2m1fn_x2")])
def test_mx_of_torchao(weight_format, element):
    torch = pytest.importorskip("torch")
    to_mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor").to_mx
    of = Quantised(weight_format)
    scales, codes = to_mx(torch.from_numpy(of.weights.copy()), getattr(torch, element), 32)
    np.testing.assert_array_equal(of.scales, scales.view(torch.uint8).numpy().reshape(of.scales.shape))
    np.testing.assert_array_equal(of.codes, codes.view(torch.uint8).numpy().reshape(of.codes.shape))


def test_nvfp4_of_torchao():
    torch = pytest.importorskip("torch")
    torchao = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    of = Quantised("nvfp4")
    for expert, weights in enumerate(of.weights):
        weights = torch.from_numpy(weights.copy())
        whole = torchao.per_tensor_amax_to_scale(weights.abs().max())
        assert float(whole) == of.expert_scales[expert]
        scales, codes = torchao.nvfp4_quantize(weights, per_tensor_scale=whole)
        np.testing.assert_array_equal(of.scales[expert], scales.view(torch.uint8).numpy())
        np.testing.assert_array_equal(of.codes[expert], codes.view(torch.uint8).numpy().reshape(of.codes[expert].shape))


def groups_of_compressed_tensors(torch, args, weights, scale_dtype):
    """(scales, codes) of weights [N, K] by groups or blocks."""
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    n, k = weights.shape
    if args.block_structure:
        rows, columns = args.block_structure
        padded = torch.nn.functional.pad(weights, (0, -k % columns, 0, -n % rows))
        blocks = padded.reshape(-(-n // rows), rows, -(-k // columns), columns).transpose(1, 2).flatten(2)
    else:
        blocks = weights.reshape(n, -1, args.group_size)
    blocks = blocks.to(scale_dtype)
    scales, zeros = calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
    dtype = torch.float8_e4m3fn if args.block_structure else torch.int8
    return scales, quantize(weights, scales, zeros, args, dtype=dtype)


@pytest.mark.parametrize("group", [32, 128])
def test_int4_of_compressed_tensors(group):
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.compressors.pack_quantized import pack_to_int32
    args = quantization.QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group)
    of = Quantised(f"int4_group{group}")
    for expert, weights in enumerate(of.weights):
        scales, codes = groups_of_compressed_tensors(torch, args, torch.from_numpy(weights.copy()), torch.bfloat16)
        assert scales.dtype == torch.bfloat16
        np.testing.assert_array_equal(of.scales[expert], scales.float().numpy())
        np.testing.assert_array_equal(of.codes[expert], pack_to_int32(codes, 4).numpy().view(np.uint8))
        exact = codes.double() * scales.double().repeat_interleave(group, -1)
        np.testing.assert_array_equal(of.numbers[expert], exact.numpy())


@pytest.mark.parametrize("dim, inter", [(256, 128), (200, 136)])
def test_fp8_blocks_of_compressed_tensors(dim, inter):
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    args = quantization.QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="block",
                                         block_structure=[128, 128])
    of = Quantised("fp8_e4m3_block128", dim=dim, inter=inter)
    for expert, weights in enumerate(of.weights):
        scales, codes = groups_of_compressed_tensors(torch, args, torch.from_numpy(weights.copy()), torch.float32)
        np.testing.assert_array_equal(of.scales[expert], scales.numpy())
        np.testing.assert_array_equal(of.codes[expert], codes.view(torch.uint8).numpy())


def test_mxfp4_of_transformers():
    torch = pytest.importorskip("torch")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    of = Quantised("mxfp4")
    numbers = mxfp4.convert_moe_packed_tensors(torch.from_numpy(of.codes.copy()), torch.from_numpy(of.scales.copy()),
                                               dtype=torch.float32)
    np.testing.assert_array_equal(of.numbers, numbers.numpy().transpose(0, 2, 1))


def rows_as_codes(activation_format, rows):
    """The numbers that rows [T, K] become in the first product, shown by experts whose weights are the identity."""
    tokens, dim = rows.shape
    config = {**plain_call().config, "n_routed_experts": 1, "dim": dim, "inter_dim": dim, "moe_inter_dim": dim,
              "expert_activation": "relu"}
    eye = np.eye(dim, dtype=np.float32)[None]
    call = moeref.call("experts", config, {
        "inputs/x": rows, "inputs/weights": np.ones((tokens, 1), np.float32), "inputs/indices": np.zeros((tokens, 1), np.int64),
        "params/gate_and_up_projs": eye, "params/down_projs": eye}).quantised("mxfp8", activation_format)
    assert call.config["activation_format"] == activation_format
    return moeref.reference(call)["stages/up_projection"].value.reshape(tokens, dim)


def test_an_accumulator_is_declared_with_the_formats():
    call = plain_call().quantised("fp8_e4m3_block128", "fp8_e4m3_group128", "e8m13_promoted128")
    assert call.config["accumulator"] == "e8m13_promoted128"
    exact = plain_call().quantised("fp8_e4m3_block128", "fp8_e4m3_group128")
    assert exact.config.get("accumulator", "float32") == "float32"
    bound, wider = (moeref.reference(of)["stages/up_projection"].bound for of in (exact, call))
    assert (wider > bound).all()
    with pytest.raises(moeref.InputError, match="'float8' is no accumulator"):
        plain_call().quantised("fp8_e4m3_block128", "fp8_e4m3_group128", "float8")


def rows_of_all_sizes(tokens=64, dim=256):
    """Rows of bfloat16's values, where ties between codes are many, with groups far apart and one of zeros."""
    draw = np.random.default_rng(5)
    rows = (draw.standard_normal((tokens, dim)) * np.exp2(draw.integers(-9, 9, (tokens, dim // 32))).repeat(32, 1))
    rows[3, 128:] = 0.0
    return (rows.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("activation_format, mode", [("mxfp8", "FLOOR"), ("mxfp8_rceil", "RCEIL")])
def test_rows_in_mxfp8_of_torchao(activation_format, mode):
    torch = pytest.importorskip("torch")
    mx_tensor = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    rows = rows_of_all_sizes()
    scales, codes = mx_tensor.to_mx(torch.from_numpy(rows.copy()), torch.float8_e4m3fn, 32,
                                    getattr(mx_tensor.ScaleCalculationMode, mode))
    scales = np.exp2(scales.view(torch.uint8).numpy().astype(np.float64) - 127).reshape(64, -1)
    numbers = codes.to(torch.float64).numpy().reshape(rows.shape) * scales.repeat(32, 1)
    np.testing.assert_array_equal(rows_as_codes(activation_format, rows), numbers)


def test_rows_in_fp8_groups_of_compressed_tensors():
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    args = quantization.QuantizationArgs(num_bits=8, type="float", symmetric=True, dynamic=True, strategy="group", group_size=128)
    rows = rows_of_all_sizes()
    given = torch.from_numpy(rows.copy())
    groups = given.reshape(64, -1, 128)
    scales, zeros = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    codes = quantize(given, scales, zeros, args, dtype=torch.float8_e4m3fn)
    numbers = codes.double().numpy() * scales.double().numpy().repeat(128, 1)
    np.testing.assert_array_equal(rows_as_codes("fp8_e4m3_group128", rows), numbers)


def test_rows_in_fp8_groups_with_powers_of_two_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = rows_of_all_sizes()
    largest = np.abs(rows.reshape(64, -1, 128)).max(-1).astype(np.float64)
    scales = np.exp2(np.ceil(np.log2(np.where(largest == 0, 448, largest) / 448))).repeat(128, 1)
    numbers = (rows / scales).astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scales
    np.testing.assert_array_equal(rows_as_codes("fp8_e4m3_group128_ue8m0", rows), numbers)


def test_a_port_that_leaves_rows_in_numbers_fails():
    call = plain_call(dim=256, inter=128).quantised("fp8_e4m3_block128", "fp8_e4m3_group128")
    numbers = moeref.reference(call.dequantised())["outputs/y"].value.astype(np.float32)
    own = moeref.reference(call)["outputs/y"].value.astype(np.float32)
    assert moeref.judge(call, results={"outputs/y": own})
    assert not moeref.judge(call, results={"outputs/y": numbers})


def test_a_format_of_rows_that_there_is_none_of():
    with pytest.raises(moeref.InputError, match="'fp3' is no format of quantised activations"):
        plain_call().quantised("mxfp8", "fp3")
