"""The reference and the judge on arrays of this process."""

import json
import random
from typing import NamedTuple, Optional

import numpy as np

from . import _moeref
from .arrays import bits_of, like, values_of


class Bounded(NamedTuple):
    """A result of the reference."""

    value: object  #: float64
    bound: object  #: float32: the largest error that an honest implementation can make; 0 = the value is exact
    dtype: str  #: what an honest implementation returns it in


class TensorVerdict(NamedTuple):
    """The verdict on one tensor; `ratio` is the largest |value - reference| / bound."""

    tensor: str
    verdict: str  #: "PASS", "AMBIGUOUS" or "FAIL"
    ratio: float
    index: int  #: row-major, of the worst element; -1 where there is none
    value: float
    reference: float
    bound: float
    elements: int
    finding: str  #: in words, where numbers do not say it

    def __str__(self):
        text = f"{self.verdict} {self.tensor}"
        if self.index >= 0:
            text += f"[{self.index}] = {self.value:.9g}, reference {self.reference:.9g}, bound {self.bound:.3g}"
        return text + f", r = {self.ratio:.3g}" + (f"; {self.finding}" if self.finding else "")


class CaseVerdict(NamedTuple):
    """The verdict on one call. True where nothing fails."""

    verdict: str  #: the worst of the tensors'
    tensors: list  #: in the order of the stages, so that the first one that fails is the first divergence
    first_failure: Optional[TensorVerdict]
    tokens: int
    uncertified_tokens: int  #: an honest port could choose other experts there
    ambiguous_tokens: int  #: and this one did, explainably

    def __bool__(self):
        return self.verdict != "FAIL"

    def __str__(self):
        return str(self.first_failure) if self.first_failure else self.verdict


class Call:
    """One call of one component: `component`, `config`, `options`, `tensors` and `backward`.

    `line` is the text that stands for a drawn call: `moeref.draw(line=...)` draws it again.
    """

    def __init__(self, handle, line=""):
        self.handle, self.line = handle, line
        self.component, self.backward = handle.component, handle.backward
        self.config, self.options = json.loads(handle.config), json.loads(handle.options)

    @property
    def tensors(self):
        """{"inputs/x": array, ...}, read-only; bfloat16 as float32 with the same values."""
        return {name: values_of(bits, dtype) for name, (bits, dtype) in self.handle.arrays().items()}

    def quantised(self, weight_format, activation_format="none", accumulator="float32"):
        """This call of experts or moe with codes and scales in place of its experts' weights ("mxfp4", ...).

        With an activation_format ("mxfp8", ...) the rows of both products are to be quantised too: a field of the config, as is the
        accumulator of their sums ("e8m13_promoted128": Hopper's FP8 tensor cores).
        """
        return Call(self.handle.quantised(weight_format, activation_format, accumulator))

    def dequantised(self):
        """This call with the exact numbers that its codes and scales stand for; without any it is the call itself.

        An activation_format goes too, since its products are of two quantised operands.
        """
        return Call(self.handle.dequantised())

    @property
    def dtypes(self):
        return {name: dtype for name, (_, dtype) in self.handle.arrays().items()}


def call(component, config, tensors, *, options=None, backward=None):
    """A call over the caller's arrays, which are not copied where they are dense, aligned and in CPU memory.

    `tensors` are named as in the golden files: "inputs/x", "params/weight", "cotangents/weights". Gradients are
    wanted where cotangents are given. Raises moeref.InputError for what is missing, unknown or of a wrong shape.
    """
    if backward is None:
        backward = any(name.startswith("cotangents/") for name in tensors)
    arrays = {name: bits_of(name, array) for name, array in tensors.items()}
    return Call(_moeref.Call(component, json.dumps(config), json.dumps(options or {}), arrays, backward))


def reference(component, config=None, tensors=None, *, options=None, backward=None):
    """{"outputs/weights": Bounded(value, bound, dtype), "grads/x": ...}: the reference's results.

    Takes what `call` takes, or one Call. Arrays come back in the framework of the caller's.
    """
    asked, example = _asked(component, config, tensors, options, backward)
    return {name: Bounded(like(example, value), like(example, bound), dtype)
            for name, (value, bound, dtype) in _moeref.evaluate(asked.handle).items()}


def judge(component, config=None, tensors=None, results=None, *, options=None, backward=None, ties="open"):
    """The CaseVerdict on {"outputs/weights": array, "grads/x": array, ...}.

    Takes what `call` takes, or one Call, and the results in any dtype. With ties="lowest_id" another choice among
    equal scores is wrong.
    """
    if not results:
        raise ValueError("judge needs the results to judge")
    asked, _ = _asked(component, config, tensors, options, backward)
    given = {name: bits_of(name, array) for name, array in results.items()}
    out = _moeref.judge(asked.handle, given, ties == "lowest_id")
    out["tensors"] = [TensorVerdict(**tensor) for tensor in out["tensors"]]
    first = [tensor for tensor in out["tensors"] if tensor.tensor == out["first_failure"]]
    out["first_failure"] = first[0] if first else None
    return CaseVerdict(**out)


def draw(component=None, *, scale="small", seed=None, backward=True, line=None):
    """A drawn Call: of a component at a scale ("small", "kernel", "full"), or the one that a line stands for."""
    if line is not None:
        return Call(*_moeref.call_of_line(line, backward))
    bits = random.Random(seed).getrandbits(64)
    return Call(*_moeref.draw(component, scale, bits, backward))


def _asked(component, config, tensors, options, backward):
    if isinstance(component, Call):
        return component, np.empty(0)
    asked = call(component, config, tensors, options=options, backward=backward)
    return asked, next(iter(tensors.values()), np.empty(0))
