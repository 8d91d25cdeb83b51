"""From a case to the results of a port's function."""

import json

from .cases import FIELDS, checked_results


class NotSupported(Exception):
    """Raised by a port's function for a call that it does not compute: counted, never a pass."""


def undeclared_convention(case, conventions):
    """Why a port that declares these conventions must not be asked for the case, or None."""
    for name, field in FIELDS["config of mlp" if case.component == "mlp" else "config"].items():
        read = case.component in field["readers"].split()
        if field.get("convention") and read and name not in conventions and case.config[name] != field["default"]:
            return f"does not declare the convention '{name}', which is {json.dumps(case.config[name])} here"
    return None


def call_port(functions, case):
    """The named result arrays of a case.

    Raises NotSupported where the port has no such component, and whatever its function raises.
    """
    function = functions.get(case.component)
    if function is None:
        raise NotSupported(f"this port has no {case.component}")
    return checked_results(function(case.config, case.options, case.tensors))
