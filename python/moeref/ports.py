"""A port is a decorated function of named arrays."""

import functools
import inspect
import os
import shlex
import sys

import numpy as np
from moeref_port import NotSupported
from moeref_port.cases import FIELDS
from moeref_port.exec_protocol import check_capabilities

from .arrays import bits_of, values_of

_OPTIONS = {name: field["default"] for name, field in FIELDS["call options"].items()}
#: Types that a framework holds by default.
_DTYPES = {"jax": ["float32", "bfloat16", "float16"]}


def port(component, *, arrays="numpy", autograd=False, device=None, supports=None, **capabilities):
    """Makes a Port of the function below it.

    The function takes `config` (every field of it), `options` and the call's tensors by keyword: "inputs/x" is x,
    "params/gate.weight" gate_weight, "cotangents/y" cotangent_y. It names only what it takes: a call that has more
    is NOT_SUPPORTED, as is one for which `supports(config)` returns False or the reason why not. It returns
    {"weights": array, ...}: "weights" is "outputs/weights", others go by their whole name ("stages/logits").

    arrays     "numpy" (bfloat16 comes as float32), "torch" or "jax"
    device     where torch's or jax's arrays lie: "cuda", "cuda:1", "gpu"; by default in CPU memory
    autograd   torch: the gradients are those of the outputs; without it a port is forward only, or declares
               passes=["forward", "backward"] and returns "grads/..."
    and the capabilities of a port (ties="lowest_id", deterministic=False, stages=["logits"], ...).
    """
    scope = sys._getframe(1).f_globals

    def decorate(function):
        return Port(function, component, scope, arrays=arrays, autograd=autograd, device=device, supports=supports,
                    **capabilities)

    return decorate


class Port:
    """A function as a port of one component; called, it is the function. `scope`: the globals of its module."""

    def __init__(self, function, component, scope, *, arrays="numpy", autograd=False, device=None, supports=None,
                 **capabilities):
        check_capabilities(capabilities)
        if arrays not in ("numpy", "torch", "jax"):
            raise TypeError(f"arrays is {arrays!r}: want 'numpy', 'torch' or 'jax'")
        if autograd and arrays != "torch":
            raise TypeError("autograd needs arrays='torch'")
        if device and arrays == "numpy":
            raise TypeError("device needs arrays='torch' or 'jax'")
        self.function, self.component, self.scope, self.supports = function, component, scope, supports
        self.arrays, self.autograd, self.device = arrays, autograd, device
        self.name = getattr(function, "__name__", component)
        defaults = {"passes": ["forward", "backward"] if autograd else ["forward"]}
        if arrays in _DTYPES:
            defaults["dtypes"] = _DTYPES[arrays]
        self.capabilities = {"name": self.name, **defaults, **capabilities}
        functools.update_wrapper(self, function)

    def __call__(self, *arguments, **keywords):
        return self.function(*arguments, **keywords)

    def answer(self, config, options, tensors):
        """{"outputs/weights": NumPy array, ...} for a call as moeref_port gives it. Raises NotSupported."""
        verdict = self.supports(config) if self.supports else True
        if verdict is False or isinstance(verdict, str):
            raise NotSupported(verdict or "its `supports` declines the config")
        results = self.compute(config, options, tensors)
        if not hasattr(results, "items"):
            raise TypeError(f"the port returned {type(results).__name__} where a dict of named arrays belongs")
        return {name if "/" in name else f"outputs/{name}": values_of(*bits_of(name, array))
                for name, array in results.items()}

    def compute(self, config, options, tensors):
        given = {name: _framework_array(self.arrays, array, tensors.dtypes[name], self.device)
                 for name, array in tensors.items()}
        forward = given
        if self.autograd:
            forward = {name: array for name, array in given.items() if not name.startswith("cotangents/")}
        call = functools.partial(self._call, config, options)
        if self.autograd and tensors.backward:
            from .torch_gradients import with_gradients
            return with_gradients(call, forward, {name: given[name] for name in given.keys() - forward.keys()})
        return call(forward)

    def _call(self, config, options, tensors):
        keywords = {keyword(name): array for name, array in tensors.items()}
        takes = inspect.signature(self.function).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
            extra = sorted(keywords.keys() - takes.keys())
            if extra:
                raise NotSupported(f"the port takes no {extra[0]}")
        if "options" not in takes:
            refuse_options(options)
        for name in ("config", "options"):
            if name in takes:
                keywords[name] = config if name == "config" else options
        missing = [name for name, one in takes.items() if name not in keywords and one.default is one.empty
                   and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        if missing:
            raise NotSupported(f"the port needs {missing[0]}")
        return self.function(**keywords)

    def where(self):
        """(file or module, name) by which another process finds this port. Raises ValueError where none can."""
        names = [name for name, value in self.scope.items() if value is self]
        file = self.scope.get("__file__")
        if not names or not file:
            raise ValueError(f"port '{self.name}' is not a name of a module's file, from which a process of its own "
                             "could load it: define it there, or pass isolated=False")
        return (self.scope["__name__"] if self.scope.get("__package__") else os.path.abspath(file)), names[0]

    def command(self):
        """The command line of a process that answers as this port."""
        return " ".join(shlex.quote(word) for word in (sys.executable, "-m", "moeref.child", *self.where()))


def keyword(name):
    """The keyword that carries a tensor: "params/gate.weight" is gate_weight, "cotangents/y" cotangent_y."""
    group, _, rest = name.partition("/")
    return ("cotangent_" if group == "cotangents" else "") + rest.replace(".", "_")


def refuse_options(options):
    """Raises NotSupported where a call has options that a port which knows none would miss."""
    for name, value in options.items():
        if name in _OPTIONS and value != _OPTIONS[name]:  # others are accepted, and ignored
            raise NotSupported(f"the port takes no options, and the call has {name} = {value}")


def _framework_array(framework, array, dtype, device):
    array = np.array(array)  # the port's own, which it may overwrite
    if framework == "torch":
        import torch
        return torch.from_numpy(array).to(device=device, dtype=getattr(torch, dtype))
    if framework == "jax":
        import jax
        import jax.numpy as jnp
        array = jnp.asarray(array, dtype=None if dtype == "int64" else getattr(jnp, "bool_" if dtype == "bool" else dtype))
        return jax.device_put(array, jax.devices(device)[0]) if device else array
    return array
