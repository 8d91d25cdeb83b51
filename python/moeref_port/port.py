"""A port: functions by component, and what the port declares about itself."""

import os
import sys

from .cases import BadCase
from .exec_protocol import check_capabilities, serve
from .results_folder import run_files


class Port:
    """Collects functions under @port.component(NAME) and runs them either way.

    The capabilities, all optional: version, passes (["forward"] for a port without gradients), dtypes,
    stages, ties ("lowest_id" or "open"), accumulation, storage, deterministic, batch_invariant, products
    ("float32" or "tf32"), conventions (config fields with "convention" in fields.json that it knows),
    max_ranks. Raises TypeError for any other.
    """

    def __init__(self, name, **capabilities):
        check_capabilities(capabilities)
        self.name, self.capabilities, self.functions = name, capabilities, {}

    def component(self, name):
        def register(function):
            self.functions[name] = function
            return function

        return register

    def main(self, arguments=None):
        """The port as a program.

        PROGRAM                      answers moeref on stdin and stdout (--port exec:"PROGRAM")
        PROGRAM GOLDEN_DIR OUT_DIR   writes OUT_DIR/NAME.h5 for each golden file (--port results:OUT_DIR)
        """
        arguments = sys.argv[1:] if arguments is None else list(arguments)
        if not arguments and not sys.stdin.isatty():
            sys.exit(serve(self.functions, name=self.name, **self.capabilities))
        if len(arguments) != 2:
            program = os.path.basename(sys.argv[0])
            print(f"usage: {program} GOLDEN_DIR OUT_DIR, or moeref validate --port exec:'{program}' GOLDEN_DIR",
                  file=sys.stderr)
            sys.exit(2)
        try:
            known = self.capabilities.get("conventions", [])
            report = run_files(self.functions, arguments[0], arguments[1], known)
            if known:
                with open(os.path.join(arguments[1], "conventions.txt"), "w", encoding="utf-8") as file:
                    file.writelines(f"{name}\n" for name in known)
            sys.exit(report.exit_code)
        except (BadCase, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
