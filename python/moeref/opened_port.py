"""A port, opened once and asked for many properties and golden cases."""

import json
import os
import shlex
import sys
import traceback

from moeref_port import Config, NotSupported, Tensors
from moeref_port.cases import _defaults
from moeref_port.exec_protocol import hello, last_line

from . import _moeref, child
from .arrays import bits_of, values_of

#: A port's start counts, and importing a large package takes its time.
TIMEOUT = 60.0


class OpenedPort:
    """In a child process, started again after a crash or a call longer than `timeout`; or in this process."""

    def __init__(self, port, *, isolated=True, timeout=TIMEOUT):
        self.port, self.isolated, self._interrupt = port, isolated, None
        if isolated:
            os.environ[child.IMPORT_PATH] = os.pathsep.join(os.path.abspath(folder) for folder in sys.path if folder)
            self.handle = _moeref.Port.of_command(f"exec {port.command()}", timeout)
        else:
            declared = hello({port.component: None}, {"deterministic": False, **port.capabilities})
            self.handle = _moeref.Port.of_function(self._answer, json.dumps(declared))

    def check(self, name, *, scale, seed, cases, forward_only=False):
        """The outcome of a property, as a dict."""
        return self._uninterrupted(
            self.handle.check(name, scale, seed, cases, [self.port.component], forward_only))

    def validate(self, file, *, forward_only=False):
        """The verdict on a golden file, as a dict."""
        return self._uninterrupted(self.handle.validate(str(file), forward_only))

    def repeat(self, name, line):
        """("FAIL", finding) or ("PASS", ""): the one case of a property that a failure names."""
        return self._uninterrupted(self.handle.repeat(name, line))

    def repeat_line(self, name, outcome, scale):
        if not outcome["case"]:
            return ""
        if not self.isolated:
            return f"moeref.repeat({self.port.name}, {name!r}, {outcome['case']!r}, isolated=False)"
        command = f"exec:python3 -m moeref.child {' '.join(shlex.quote(word) for word in self.port.where())}"
        wide = "" if scale == "small" else f" --scale {scale}"
        return f"moeref check --port {shlex.quote(command)}{wide} --property {name} --repeat {shlex.quote(outcome['case'])}"

    def _answer(self, call):
        if self._interrupt:
            return "not_supported", "interrupted", {}
        try:
            arrays = call.arrays()
            component = "config of mlp" if call.component == "mlp" else "config"
            config = Config({**_defaults(component), **json.loads(call.config)})
            options = {**_defaults("call options"), **json.loads(call.options)}
            tensors = Tensors({name: values_of(*pair) for name, pair in arrays.items()},
                              {name: dtype for name, (_, dtype) in arrays.items()}, call.backward)
            results = self.port.answer(config, options, tensors)
            return "ok", "", {name: bits_of(name, array) for name, array in results.items()}
        except NotSupported as reason:
            return "not_supported", str(reason), {}
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            return "not_supported", "interrupted", {}
        except (Exception, SystemExit) as error:  # of the port's code: a finding, not the end of the run
            traceback.print_exc()
            return "error", last_line(error), {}

    def _uninterrupted(self, outcome):
        if self._interrupt:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt
        return outcome
