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
           "TensorVerdict", "call", "check", "cmake_dir", "draw", "include_dir", "judge", "module_port", "port", "reference",
           "repeat"]


_HERE = os.path.dirname(os.path.abspath(__file__))


def include_dir():
    """The folder of moeref/port.h, the interface of ports in C, and of DLPack's header, which it includes."""
    return os.path.join(_HERE, "include")


def cmake_dir():
    """The folder of the CMake package for ports in C and C++: cmake -Dmoeref_DIR=..."""
    return os.path.join(_HERE, "cmake")
