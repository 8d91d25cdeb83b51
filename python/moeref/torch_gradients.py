"""Gradients of torch functions of named tensors, by autograd."""

import torch


def with_gradients(function, tensors, cotangents):
    """function(tensors) and "grads/NAME" of every floating tensor, for d loss / d output = the cotangents."""
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items() if tensor.is_floating_point()}
    results = function({**tensors, **leaves})
    outputs, given = [], []
    for name, cotangent in cotangents.items():
        rest = name.partition("/")[2]
        output = results.get(rest, results.get(f"outputs/{rest}"))
        if output is None:
            raise KeyError(f"the port returned no '{rest}', for which there is a cotangent")
        if output.requires_grad:
            outputs.append(output)
            given.append(cotangent.to(output.dtype).reshape(output.shape))
    found = [None] * len(leaves)
    if outputs:
        found = torch.autograd.grad(outputs, list(leaves.values()), given, allow_unused=True)
    gradients = {f"grads/{name.partition('/')[2]}": torch.zeros_like(leaf) if gradient is None else gradient
                 for (name, leaf), gradient in zip(leaves.items(), found)}
    return {**results, **gradients}
