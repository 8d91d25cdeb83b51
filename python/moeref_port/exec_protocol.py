"""The port's side of `moeref validate --port exec:COMMAND`: one JSON object a line on stdin and stdout.

    {"moeref": 1, "request": "hello"}
    {"name": ..., "version": ..., "components": [...], "passes": [...], "dtypes": [...], ...}
    {"request": "run", "case": ..., "component": ..., "backward": true, "input": PATH, "output": PATH}
    {"status": "ok"} | {"status": "not_supported", "reason": ...} | {"status": "error", "reason": ...}

The end of stdin ends the port.
"""

import json
import os
import sys
import traceback

from .call import NotSupported, call_port
from .cases import read_case, write_results

PROTOCOL_VERSION = 1
DEFAULTS = {"version": "0", "passes": ["forward", "backward"], "dtypes": ["float32", "bfloat16", "float16", "float64"],
            "stages": [], "ties": "open", "accumulation": "float32", "storage": "", "deterministic": True,
            "batch_invariant": False, "init_generator": "own", "products": "float32", "conventions": [],
            "max_ranks": 1}


def check_capabilities(capabilities):
    """Raises TypeError for a capability that the protocol does not have."""
    unknown = set(capabilities) - set(DEFAULTS) - {"name"}
    if unknown:
        raise TypeError(f"unknown capability {sorted(unknown)[0]!r}: want one of {', '.join(sorted(DEFAULTS))}")


def hello(functions, capabilities):
    """What the port declares. Raises TypeError for a capability that the protocol does not have."""
    check_capabilities(capabilities)
    return {"name": "python-port", **DEFAULTS, **capabilities, "components": list(functions)}


def serve(functions, **capabilities):
    """Answers requests until stdin ends; returns the exit code.

    What the functions print goes to stderr, and they read an empty stdin: both pipes are moeref's alone,
    for code in C too.
    """
    declared = hello(functions, capabilities)
    requests, answers = _take_pipes()
    with requests, answers:
        for line in requests:
            if not line.strip():
                continue
            answers.write(json.dumps(_answer(functions, declared, line)) + "\n")
            answers.flush()
    return 0


def _take_pipes():
    sys.stdout.flush()
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8", errors="surrogateescape")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _answer(functions, declared, line):
    try:
        request = json.loads(line)
        kind = request["request"]
    except (ValueError, KeyError, TypeError):
        return _error(f"no request: {line.strip()[:200]}")
    if kind == "hello":
        if request.get("moeref") != PROTOCOL_VERSION:
            return _error(f"protocol version {request.get('moeref')}: this port speaks version {PROTOCOL_VERSION}")
        return declared
    if kind == "run":
        return _run(functions, request)
    return _error(f"unknown request '{kind}'")


def _run(functions, request):
    try:
        case = read_case(request["input"])
        case.tensors.backward = bool(request.get("backward", case.backward))
        write_results(request["output"], call_port(functions, case))
        return {"status": "ok"}
    except NotSupported as error:
        return {"status": "not_supported", "reason": str(error)}
    except (Exception, SystemExit) as error:  # of the port's code: a finding, not the end of the run
        traceback.print_exc()
        return _error(last_line(error))


def last_line(error):
    """The exception without its notes, and the line of the port's own file that it came through last."""
    notes = [line for note in getattr(error, "__notes__", ()) for line in str(note).split("\n")]
    text = traceback.format_exception_only(type(error), error)[-1 - len(notes)].strip()
    packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    ours = [os.path.join(packages, name) for name in ("moeref_port", "moeref")]
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if os.path.dirname(os.path.abspath(f.filename)) not in ours]
    own = [f for f in frames if f.filename == frames[0].filename]
    return f"{text} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else text


def _error(reason):
    return {"status": "error", "reason": reason}
