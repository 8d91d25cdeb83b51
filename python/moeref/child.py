"""A port in a process of its own: `python -m moeref.child FILE_OR_MODULE NAME` answers on stdin and stdout."""

import importlib
import importlib.util
import os
import sys

from moeref_port import serve


class Loaded(BaseException):
    """Ends the loading of a script that checks its ports where they stand: in the child they are only served."""


LOADING = False
#: The variable with the folders from which the parent imports.
IMPORT_PATH = "MOEREF_IMPORT_PATH"


def load(where):
    """The globals of a file or a module, as far as it goes before it checks its ports itself."""
    global LOADING
    LOADING = True
    try:
        if not where.endswith(".py"):
            return vars(importlib.import_module(where))
        sys.path.insert(0, os.path.dirname(os.path.abspath(where)))
        spec = importlib.util.spec_from_file_location("moeref_ports_" + os.path.basename(where)[:-3], where)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Loaded:
            pass
        return vars(module)
    finally:
        LOADING = False


def main():
    where, name = sys.argv[1:]
    sys.path += [folder for folder in os.environ.get(IMPORT_PATH, "").split(os.pathsep) if folder not in sys.path]
    answers = os.dup(1)
    os.dup2(2, 1)  # what the file prints is no answer
    port = load(where)[name]
    sys.stdout.flush()
    os.dup2(answers, 1)
    os.close(answers)
    return serve({port.component: port.answer}, **port.capabilities)


if __name__ == "__main__":
    # Under the name that the package knows: `check` looks at LOADING there.
    from moeref.child import main as serve_port
    sys.exit(serve_port())
