"""Named arrays as PyTorch tensors and back, with the dtypes that the documented system has there."""

import torch

from moeref_port import NotSupported

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
          "int64": torch.int64, "bool": torch.bool}
PARALLEL = ("ep_size", "cp_size", "dp_size")


def to_torch(tensors):
    """{name: tensor}; inputs and parameters of a floating type want gradients where the case does."""
    out = {}
    for name, array in tensors.items():
        out[name] = torch.tensor(array).to(DTYPES[tensors.dtypes[name]])
        if tensors.backward and out[name].is_floating_point() and not name.startswith("cotangents/"):
            out[name].requires_grad_()
    return out


def to_numpy(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def parameters_of(named, prefix="params/"):
    """The case's parameters by their names in a state dict."""
    return {name[len(prefix):]: tensor.detach() for name, tensor in named.items() if name.startswith(prefix)}


def gradients(outputs, named, inputs, parameters):
    """Runs backward from the case's cotangents: {"grads/...": array} of inputs and of a module's parameters.

    A gradient that autograd does not make is one of zeros.
    """
    pairs = [(outputs[name], named["cotangents/" + name]) for name in outputs if "cotangents/" + name in named]
    torch.autograd.backward([output for output, _ in pairs], [cotangent.to(output.dtype) for output, cotangent in pairs])
    leaves = {**{name: named["inputs/" + name] for name in inputs}, **dict(parameters)}
    return {"grads/" + name: to_numpy(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
            for name, leaf in leaves.items() if leaf.requires_grad}


def one_rank_only(options):
    for size in PARALLEL:
        if options.get(size, 1) > 1:
            raise NotSupported(f"{size} = {options[size]}: this port runs on one rank")
