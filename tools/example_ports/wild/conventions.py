"""The rows of conventions.json, and the calls that are drawn under each: which public implementation is asked, and of what.

A row has its fields of the config, the implementations that are asked ("judged": report, port, the layer's config, call
options, data and types) and the router classes of transformers that have it ("classes": conditions, of which one must hold).
"""
import collections
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

import moeref
from moeref.checking import Item, run_item
from moeref.command import command_path
from moeref_port import read_case
from moeref_port.cases import FIELDS

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "conventions.json"), encoding="utf-8") as file:
    TABLE = json.load(file)


def asked_of(report, port):
    """[(row, entry)] of what this port of this report is asked for."""
    return [(row, entry) for row in TABLE["rows"] for entry in row["judged"] if entry["report"] == report and entry["port"] == port]


def layer_of(entry, component):
    """What `moeref generate --config` takes."""
    defaults = TABLE["defaults of mlp" if component == "mlp" else "defaults"]
    return {"component": component, "config": {**defaults, **entry["config"]}, "call": entry.get("call", {}),
            "tokens": [TABLE["tokens"]], "data": entry.get("data", {})}


def draw(command, layer, dtype, seed, folder):
    """The path of the golden file of a drawn call."""
    source = os.path.join(folder, f"{dtype}_{seed}.json")
    with open(source, "w", encoding="utf-8") as file:
        json.dump(layer, file)
    subprocess.run([command, "generate", "--config", source, "--dtype", dtype, "--seed", str(seed), "--out", folder],
                   check=True, stdout=subprocess.DEVNULL)
    return os.path.join(folder, f"{layer['component']}__{dtype}_{seed}.h5")


def arrays_of(case):
    return {name: typed(array, case.tensors.dtypes[name]) for name, array in case.tensors.items()}


def typed(array, dtype):
    if dtype != "bfloat16":
        return np.asarray(array)
    import ml_dtypes
    return np.asarray(array).astype(ml_dtypes.bfloat16)


def without(row, entry, case, results, tensors, known):
    """What comes of the same results where the row's fields are at their defaults: a verdict, or "no such call"."""
    fields = {**{name: value for name, value in case.config.items() if name in known and value is not None}}
    for name in row["fields"]:
        fields.pop(name, None)
    fields.update(entry.get("unlike", {}))
    gone = entry.get("without", [])
    kept = lambda named: {name: array for name, array in named.items() if name.partition("/")[2] not in gone}  # noqa: E731
    try:
        return moeref.judge(case.component, fields, kept(tensors), kept(results), options={**case.options},
                            backward=case.tensors.backward).verdict
    except (moeref.InputError, ValueError):
        return "no such call"


def drawn(name, opened, port, report, explanation):
    """What came of calls drawn under the rows of conventions.json that ask this port, and their failures."""
    asked, failures = [], []
    for row, entry in asked_of(report, name):
        layer = layer_of(entry, port.component)
        known = FIELDS["config of mlp" if port.component == "mlp" else "config"]
        counts, unlike = collections.Counter(), collections.Counter()
        with tempfile.TemporaryDirectory() as folder:
            for dtype in entry.get("dtypes", ["float32", "bfloat16"]):
                for seed in range(TABLE["seeds"]):
                    path = draw(command_path(), layer, dtype, seed, folder)
                    item = Item("golden", f"drawn/{row['id']}_{dtype}_{seed}", path)
                    result = run_item(opened, item, forward_only="backward" not in port.capabilities["passes"])
                    counts[result.status] += 1
                    if result.failed:
                        failures.append({"kind": "drawn", "name": item.name, "status": result.status, "finding": result.finding[:400],
                                         "explained": explanation(name, item.name, result.finding)})
                        print(f"  {name}: {result.status} {item.name} {result.finding}", file=sys.stderr, flush=True)
                    elif result.ran and ("unlike" in entry or set(row["fields"]) & set(entry["config"])):
                        case = read_case(path)
                        results = port.answer(case.config, case.options, case.tensors)
                        unlike[without(row, entry, case, results, arrays_of(case), known)] += 1
                    elif not result.ran:
                        print(f"  {name}: {item.name} {result.reasons}", file=sys.stderr, flush=True)
        asked.append({"row": row["id"], "config": entry["config"], "data": entry.get("data", {}), "counts": dict(sorted(counts.items())),
                      "without": dict(sorted(unlike.items()))})
    return asked, failures
