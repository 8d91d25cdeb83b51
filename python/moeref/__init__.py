"""The reference of Mixture-of-Experts layers where kernels are written (README.md beside this package).

    moeref.reference(component, config, tensors)        values and error bounds
    moeref.judge(component, config, tensors, results)   a verdict on results
    moeref.draw(component, scale="kernel")              a call to try

    @moeref.port("gate")
    def gate(config, x, weight): ...

    moeref.check(gate)                                  properties and golden cases
"""

import os

from moeref_port import NotSupported

from ._moeref import InputError
from .checking import CheckFailed, Report, check, repeat
from .in_process import Bounded, Call, CaseVerdict, TensorVerdict, call, draw, judge, reference
from .module_ports import module_port
from .ports import Port, port

__all__ = ["Bounded", "Call", "CaseVerdict", "CheckFailed", "InputError", "NotSupported", "Port", "Report",
           "TensorVerdict", "call", "check", "draw", "include_dir", "judge", "module_port", "port", "reference",
           "repeat"]


def include_dir():
    """The folder of moeref/port.h, the interface of ports in C."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
