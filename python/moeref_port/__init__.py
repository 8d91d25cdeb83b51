"""Ports of Mixture-of-Experts layers in Python, judged by moeref.

A port is one function per component, from named arrays to named arrays:

    from moeref_port import Port

    port = Port("my-gate", version="1.0", passes=["forward"])

    @port.component("gate")
    def gate(config, options, tensors):
        ...
        return {"outputs/weights": weights, "outputs/indices": ids, "outputs/expert_load": load}

    if __name__ == "__main__":
        port.main()

`moeref validate --port exec:"python3 my_gate.py" GOLDEN...` then runs it, and so does
`python3 my_gate.py GOLDEN_DIR OUT_DIR` with `moeref validate --port results:OUT_DIR GOLDEN_DIR`.
"""

from .call import NotSupported, call_port
from .cases import BadCase, Case, Config, Tensors, read_case, write_results
from .exec_protocol import serve
from .port import Port
from .results_folder import run_files

__all__ = ["BadCase", "Case", "Config", "NotSupported", "Port", "Tensors", "call_port", "read_case", "run_files",
           "serve", "write_results"]
