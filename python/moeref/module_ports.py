"""A torch.nn.Module as a port."""

import sys

from moeref_port import NotSupported

from .ports import Port, refuse_options


def module_port(layer, names=None, *, component="moe", inputs=("x",), outputs=("y",), device=None, supports=None,
                **capabilities):
    """A Port whose function is a module's forward, with gradients by autograd.

    layer     a torch.nn.Module, or what makes one from a config (a class, a function), since most calls have
              sizes of their own; calls whose parameters do not fit the module are NOT_SUPPORTED
    names     {golden parameter: the module's name for it}, or in its place a function from the tensor to
              {the module's name: tensor}, for other layouts; a parameter that is not named goes by its own name
    inputs    the golden names of what forward() takes, in order; calls with other inputs are NOT_SUPPORTED
    outputs   those of what it returns
    device    where the tensors lie, and the module is moved: "cuda"
    """
    scope = sys._getframe(1).f_globals

    def module(config, options, **tensors):
        import torch
        refuse_options(options)
        other = [name for name in tensors if name.startswith("inputs/") and name[len("inputs/"):] not in inputs]
        if other:
            raise NotSupported(f"the module takes no {other[0]}")
        given = [tensors.get(f"inputs/{name}") for name in inputs]
        called = layer if isinstance(layer, torch.nn.Module) else layer(config)
        called = called.to(device) if device else called
        own = _own_parameters(called, names or {}, tensors)
        results = torch.func.functional_call(called, own, tuple(given))
        return dict(zip(outputs, results if isinstance(results, (tuple, list)) else (results,)))

    module.__name__ = getattr(layer, "__name__", type(layer).__name__)
    return _ModulePort(module, component, scope, arrays="torch", autograd=True, device=device, supports=supports, **capabilities)


class _ModulePort(Port):
    def _call(self, config, options, tensors):
        return self.function(config, options, **tensors)


def _own_parameters(module, names, tensors):
    """{the module's name: tensor} of a call's parameters. Raises NotSupported where they are not the module's."""
    out = {}
    for name, tensor in tensors.items():
        if not name.startswith("params/"):
            continue
        rest = name[len("params/"):]
        own = names.get(rest, rest)
        out.update(own(tensor) if callable(own) else {own: tensor})
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in out.items():
        if name not in held:
            raise NotSupported(f"the module has no parameter {name}")
        if held[name].shape != tensor.shape:
            raise NotSupported(f"the module's {name} has another shape than the call's")
    unset = [name for name, _ in module.named_parameters() if name not in out]
    if unset:
        raise NotSupported(f"the call has no parameter for the module's {unset[0]}")
    return out
