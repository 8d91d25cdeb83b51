"""The repository's golden files, and files made for a test."""

import os

import h5py

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
CASES = os.path.join(ROOT, "golden", "cases")
DOCUMENTED = os.path.join(ROOT, "golden", "documented_system")
EXAMPLES = os.path.join(ROOT, "tools", "example_ports", "python")


def make_golden(path, component="mlp", config='{"dim": 2, "inter_dim": 4}', call="{}", version=1, arrays=None):
    """A file with a golden file's attributes; `arrays` maps its dataset paths to arrays."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema_version": version, "component": component, "case": "made", "config": config,
                           "call": call, "producer": "a test"})
        for name, array in (arrays or {"inputs/x": [[1.0, 2.0]]}).items():
            file[name] = array
    return path
