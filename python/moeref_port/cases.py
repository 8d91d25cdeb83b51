"""Golden files as arrays, and results files (the schema is golden/README.md of moeref)."""

import json
import os
import tempfile

import h5py
import numpy as np

SCHEMA_VERSION = 1
INPUT_GROUPS = ("inputs", "params", "cotangents")
RESULT_GROUPS = ("outputs", "grads", "stages")

# Every field with its type, default and meaning, as `moeref list fields --json` prints them.
with open(os.path.join(os.path.dirname(__file__), "fields.json"), encoding="utf-8") as _file:
    FIELDS = json.load(_file)


def _defaults(table):
    return {name: field["default"] for name, field in FIELDS[table].items() if not field["required"]}


class BadCase(ValueError):
    """A file that is no case; the text names the file and what is wrong with it."""


class Config(dict):
    """The config, every field of it: what the file leaves out holds the documented default."""


class Tensors(dict):
    """Arrays by their path in the file: "inputs/x", "params/gate.weight", "cotangents/y".

    bfloat16 comes as float32 with the same values; `dtypes` has what the documented system holds there
    ("bfloat16", "float32", "int64", "bool", ...). `backward` says whether gradients are wanted.
    """

    def __init__(self, arrays=(), dtypes=None, backward=False):
        super().__init__(arrays)
        self.dtypes = dict(dtypes or {})
        self.backward = backward


class Case:
    """One call of one component: `component`, `name`, `config`, `options`, `tensors`."""

    def __init__(self, component, name, config, options, tensors):
        self.component, self.name = component, name
        self.config, self.options, self.tensors = config, options, tensors

    @property
    def backward(self):
        return self.tensors.backward


def read_case(path):
    """The case in a golden file. Its recorded results are not read: a port has no use for them.

    Raises BadCase for a file that is no golden file of this schema version.
    """
    try:
        with h5py.File(path, "r") as file:
            return _case(file)
    except BadCase as error:
        raise BadCase(f"{path}: {error}") from None
    except (OSError, RuntimeError) as error:
        raise BadCase(f"{path}: cannot be read: {error}") from None


def write_results(path, arrays):
    """Writes {"outputs/weights": array, "grads/x": array, "stages/logits": array, ...} as a results file.

    Floats of any width, integers and bools; anything that NumPy makes an array of. The file is there whole
    or not at all. Raises ValueError naming the array that cannot be a result.
    """
    arrays = checked_results(arrays)
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".part", dir=folder)
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            for name, array in arrays.items():
                file[name] = array
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def checked_results(arrays):
    """The results as arrays that HDF5 holds: bools as uint8, bfloat16 (ml_dtypes) as float32."""
    if not hasattr(arrays, "items"):
        raise ValueError(f"the port returned {type(arrays).__name__} where a dict of named arrays belongs")
    out = {}
    for name, value in arrays.items():
        group, _, rest = str(name).partition("/")
        if group not in RESULT_GROUPS or not rest or "/" in rest:
            raise ValueError(f"result '{name}': want a name like outputs/weights, grads/x or stages/logits")
        array = np.asarray(value)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        elif array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"result '{name}' has dtype {array.dtype}: want floats, integers or bools")
        out[name] = array
    if not out:
        raise ValueError("the port returned no arrays")
    return out


def _case(file):
    version = file.attrs.get("schema_version")
    if version is None or int(version) != SCHEMA_VERSION:
        raise BadCase(f"schema_version is {version}: this module reads version {SCHEMA_VERSION}")
    component = _text(file, "component")
    defaults = _defaults("config of mlp" if component == "mlp" else "config")
    arrays, dtypes = {}, {}
    for group in INPUT_GROUPS:
        for key, dataset in file.get(group, {}).items():
            name = f"{group}/{key}"
            dtypes[name] = _decoded(dataset.attrs.get("dtype", dataset.dtype.name))
            arrays[name] = _array(dataset, dtypes[name])
    backward = len(file.get("grads", {})) > 0
    return Case(component, _text(file, "case"), Config({**defaults, **_json(file, "config")}),
                {**_defaults("call options"), **_json(file, "call")}, Tensors(arrays, dtypes, backward))


def _array(dataset, dtype):
    array = dataset[()]  # h5py reads HDF5's 16-bit bfloat16 as float32
    if dtype == "bool":
        return np.asarray(array, dtype=bool)
    return np.asarray(array, dtype=np.float32 if dtype == "bfloat16" else dtype)


def _decoded(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _text(file, attribute):
    if attribute not in file.attrs:
        raise BadCase(f"lacks the attribute '{attribute}': is it a golden file?")
    return _decoded(file.attrs[attribute])


def _json(file, attribute):
    try:
        value = json.loads(_text(file, attribute))
    except json.JSONDecodeError as error:
        raise BadCase(f"attribute '{attribute}' is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadCase(f"attribute '{attribute}' is no JSON object")
    return value
