"""From a case to the results of a port's function."""

from .cases import checked_results


class NotSupported(Exception):
    """Raised by a port's function for a call that it does not compute: counted, never a pass."""


def call_port(functions, case):
    """The named result arrays of a case.

    Raises NotSupported where the port has no such component, and whatever its function raises.
    """
    function = functions.get(case.component)
    if function is None:
        raise NotSupported(f"this port has no {case.component}")
    return checked_results(function(case.config, case.options, case.tensors))
