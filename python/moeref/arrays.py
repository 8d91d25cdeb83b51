"""Arrays of every framework as NumPy's, without copies where they lie in CPU memory, row by row.

bfloat16 is no type of NumPy's own: such an array crosses as its bits, in uint16, with the name "bfloat16".
A framework is imported only by those whose arrays are its own.
"""

import sys

import numpy as np

_BITS = {"bfloat16": np.uint16, "float16": np.uint16, "bool": np.uint8}
_NAMES = {"float64", "float32", "float16", "bfloat16", "int64", "bool", "uint8"}


def framework_of(array):
    """"torch", "jax", "cupy" or "numpy", by the array's type alone."""
    module = type(array).__module__.split(".")[0]
    return {"torch": "torch", "jax": "jax", "jaxlib": "jax", "cupy": "cupy"}.get(module, "numpy")


def bits_of(name, array):
    """(array, dtype name) as the extension takes it.

    Other integer types than int64 become int64, but for uint8 in params/: codes of quantised weights. Raises TypeError
    naming the array whose type moeref does not have.
    """
    values, dtype = _torch_bits(array) if framework_of(array) == "torch" else _numpy_bits(array)
    codes = dtype == "uint8" and name.startswith("params/")
    if (dtype not in _NAMES or dtype == "uint8" and not codes) and values.dtype.kind in "iu":
        values, dtype = values.astype(np.int64), "int64"
    if dtype not in _NAMES:
        raise TypeError(f"{name} has dtype {dtype}: want one of {', '.join(sorted(_NAMES))}")
    values = np.require(values, requirements=["C", "A"])
    return values.view(_BITS.get(dtype, values.dtype)), dtype


def values_of(bits, dtype):
    """The inverse: bfloat16 as float32 with the same values, all others in their own type."""
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view({"bool": np.bool_, "float16": np.float16}.get(dtype, bits.dtype))


def like(example, array):
    """`array` (NumPy) in the framework of `example`, on the CPU."""
    framework = framework_of(example)
    if framework == "torch":
        torch = sys.modules["torch"]
        return torch.from_numpy(np.array(array))
    if framework == "jax":
        return sys.modules["jax"].numpy.asarray(array)
    return array


def _torch_bits(tensor):
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16), "bfloat16"
    array = tensor.resolve_conj().resolve_neg().numpy()
    return array, array.dtype.name


def _numpy_bits(array):
    if isinstance(array, np.ndarray):
        values = array
    elif framework_of(array) == "cupy":
        values = array.get()
    elif hasattr(array, "__array__"):  # of JAX, too: on the CPU without a copy
        values = np.asarray(array)
    elif hasattr(array, "__dlpack__"):
        values = np.from_dlpack(array)
    else:
        values = np.asarray(array)
    if values.dtype.name != "bfloat16" and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return values, values.dtype.name
