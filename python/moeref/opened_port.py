"""A port, opened once and asked for many properties and golden cases.

The command moeref draws, judges and shrinks, in a process beside this one, and asks the port over pipes as it asks
every exec: port. Isolated, the port is a third process; in process, the calls come back into this one.
"""

import functools
import json
import os
import select
import shlex
import subprocess
import sys
import tempfile

from moeref_port import exec_protocol

from . import child
from .command import command_path

#: Seconds of one call; a port's start counts, and importing a large package takes its time.
TIMEOUT = 60.0


@functools.lru_cache
def suite():
    """The properties: [{"name", "components", "checks", "any_scale"}]."""
    return json.loads(subprocess.run([command_path(), "suite-host"], check=True, capture_output=True).stdout)


class OpenedPort:
    """In a child process, started again after a crash or a call longer than `timeout`; or in this process, which has
    no such limit. Raises RuntimeError where the port cannot be opened."""

    def __init__(self, port, *, isolated=True, timeout=TIMEOUT):
        self.port, self.isolated = port, isolated
        self.calls = None if isolated else _CallsHere(port)
        os.environ[child.IMPORT_PATH] = os.pathsep.join(os.path.abspath(folder) for folder in sys.path if folder)
        command = f"exec {port.command()}" if isolated else self.calls.command
        self.process = subprocess.Popen(
            [command_path(), "suite-host", f"exec:{command}", str(timeout if isolated else 1e6)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._hear()

    def check(self, name, *, scale, seed, cases, forward_only=False):
        """The outcome of a property, as a dict."""
        return self._ask(check=name, scale=scale, seed=seed, cases=cases, component=self.port.component,
                         forward_only=forward_only)

    def validate(self, file, *, forward_only=False):
        """The verdict on a golden file, as a dict."""
        return self._ask(validate=str(file), forward_only=forward_only)

    def repeat(self, name, line):
        """The outcome of the one case of a property that a failure names."""
        return self._ask(repeat=name, line=line)

    def repeat_line(self, name, case, scale):
        """What shows a failure again: a command line, or a line of Python."""
        if not self.isolated:
            return f"moeref.repeat({self.port.name}, {name!r}, {case!r}, isolated=False)"
        words = " ".join(shlex.quote(word) for word in ("python3", "-m", "moeref.child", *self.port.where()))
        wide = "" if scale == "small" else f" --scale {scale}"
        return f"moeref check --port {shlex.quote(f'exec:{words}')}{wide} --property {name} --repeat {shlex.quote(case)}"

    def close(self):
        self.process.kill()
        self.process.communicate()

    def __del__(self):
        if hasattr(self, "process") and self.process.poll() is None:
            self.close()

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        return self._hear()

    def _hear(self):
        try:
            while self.calls and self.calls.come_before(self.process.stdout):
                self.calls.answer()
            line = self.process.stdout.readline()
        except BaseException:  # KeyboardInterrupt, too: what comes later would answer another request
            self.close()
            raise
        answer = json.loads(line) if line else {"error": "the process that judges has ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


class _CallsHere:
    """Calls of a port in this process: a shell that hands them on takes the place of the port's own process."""

    def __init__(self, port):
        self.functions = {port.component: port.answer}
        # A process that is started anew would be this one again: nothing can be said of fresh processes.
        self.declared = exec_protocol.hello(self.functions, {**port.capabilities, "deterministic": False})
        self.folder = tempfile.TemporaryDirectory(prefix="moeref-")
        names = [os.path.join(self.folder.name, name) for name in ("requests", "answers")]
        for name in names:
            os.mkfifo(name)
        # For reading and writing, so that neither waits for the shell nor ends with it.
        self.requests, self.answers = (open(os.open(name, os.O_RDWR), mode + "b", buffering=0)
                                       for name, mode in zip(names, "rw"))
        requests, answers = map(shlex.quote, names)
        self.command = f"exec 3<&0; cat <&3 >{requests} & exec cat {answers}"

    def come_before(self, stream):
        """Waits; whether a call has come, and not a line of the stream."""
        ready, _, _ = select.select([self.requests, stream], [], [])
        return stream not in ready

    def answer(self):
        line = self.requests.readline().decode("utf-8", "surrogateescape")
        answer = exec_protocol._answer(self.functions, self.declared, line)
        self.answers.write((json.dumps(answer) + "\n").encode())
