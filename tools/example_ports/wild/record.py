#!/usr/bin/env python3
"""Runs the ports of a file and writes down what came out: python record.py PORTS.py REPORT.json DATE [CASES]

    python record.py --explain PORTS.py REPORT.json    explains the failures of a stored report anew

Golden cases and properties, as moeref.check runs them; and the catalogue once more under the profile that PROFILE of the
ports' file names (moeref generate --profile), where it names one. A case that fails is judged once more under each neighbouring
convention, and the report says under which it passes. EXPLAINED of the ports' file says why cases fail, and the line of
the package that shows it, which is looked up in the package as it is installed.
"""
import collections
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile

import moeref_port

import moeref
from moeref.checking import Item, items_of, run_item
from moeref.child import load
from moeref.command import command_path
from moeref.opened_port import OpenedPort
from moeref.ports import Port
from moeref_port import read_case
from moeref_port.cases import FIELDS

import conventions

#: What has properties or golden cases that frameworks can be asked for.
COMPONENTS = ["gate", "experts", "mlp", "moe", "aux_loss", "bias_update"]
#: Conventions of others: what a config field is set to in place of what it is.
NEIGHBOURS = {"apply_router_weight_after_down": [True], "router_weights_fp32": [True],
              "discarded_groups": ["minus_infinity", "zero"], "group_score": ["top2_sum", "topk_over_g_sum", "largest"],
              "norm_at_top1": ["weights_and_scores"], "norm_eps": [1e-6]}


class Program:
    """One component of a port that is a program of its own (moeref_port.Port), as a Port of the package."""

    def __init__(self, program, component):
        self.component, self.name, self.answer = component, program.name, program.functions[component]
        self.capabilities = {"name": program.name, "passes": ["forward", "backward"], **program.capabilities}


def neighbour(port, path):
    """{"field", "value"} with which the results of a port pass that fail the file; None where there is none."""
    case = read_case(path)
    known = FIELDS["config of mlp" if case.component == "mlp" else "config"]
    results = port.answer(case.config, case.options, case.tensors)
    for field, values in NEIGHBOURS.items():
        for value in values:
            if field not in known or case.config[field] == value:
                continue
            config = {name: case.config[name] for name in known if case.config.get(name) is not None}
            try:
                verdict = moeref.judge(case.component, {**config, field: value}, conventions.arrays_of(case), results,
                                       options={**case.options}, backward=case.tensors.backward)
            except (moeref.InputError, ValueError):
                continue
            if verdict:
                return {"field": field, "value": value}
    return None


def source_of(file, text):
    """{"file", "line", "text"} of a line of an installed package. Raises LookupError."""
    top, _, rest = file.partition("/")
    folder = next(iter(importlib.util.find_spec(top).submodule_search_locations))
    with open(os.path.join(folder, rest), encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if text in line:
                return {"file": file, "line": number, "text": line.strip()}
    raise LookupError(f"{file} has no line with '{text}'")


def explained(row):
    """A row of EXPLAINED with its source's line."""
    return {**row, "source": source_of(*row["source"]) if "source" in row else None}


def explanation(rows, port, name, finding):
    """The index of the first row that matches a failure."""
    for index, row in enumerate(rows):
        if re.search(row.get("ports", ""), port) and re.search(row.get("cases", ""), name) \
                and re.search(row.get("finding", ""), finding):
            return index
    return None


def under_profile(profile, component, folder):
    """The golden cases of a component as the profile changes them, made in the folder."""
    generate = [command_path(), "generate", "--profile", profile, "--component", component, "--out", folder]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = sorted(glob.glob(os.path.join(folder, f"{component}__*.h5")))
    return [Item("golden", f"{profile}/{os.path.basename(file)[:-3]}", file) for file in files]


def record(name, port, rows, cases, profile=None, report="", drawn_alone=False):
    """What came of one port."""
    opened = OpenedPort(port, isolated=False)
    conventional, failed = conventions.drawn(name, opened, port, report, lambda *about: explanation(rows, *about))
    if drawn_alone:
        return conventional, failed
    forward_only = "backward" not in port.capabilities["passes"]
    counts = {"golden": collections.Counter(), "property": collections.Counter(), "profile": collections.Counter()}
    declined, failures = collections.Counter(), []
    folder = tempfile.TemporaryDirectory()
    changed = under_profile(profile, port.component, folder.name) if profile else []
    for item in items_of(port.component) + changed:
        result = run_item(opened, item, seed=1, cases=cases, forward_only=forward_only)
        counts["profile" if item in changed else item.kind][result.status] += 1
        if result.status == "NOT_SUPPORTED":
            declined.update(result.reasons if item.kind == "golden" else {})
        elif result.failed and (result.ran or result.finding):
            about = {"kind": "profile" if item in changed else item.kind, "name": item.name, "status": result.status, "finding": result.finding[:400]}
            if item.kind == "golden" and item not in changed and result.status == "FAIL":
                try:
                    about["passes_with"] = neighbour(port, item.checks)
                except Exception as error:  # the port's own, which the finding tells
                    about["passes_with"] = None
            about.update({"case": result.case} if result.case else {}, explained=explanation(rows, name, item.name, result.finding))
            failures.append(about)
        print(f"  {name}: {result.status} {item.name}", file=sys.stderr, flush=True) if result.failed else None
    opened.close()
    folder.cleanup()
    under = {"conventions": conventional} if conventional else {}
    under |= {"profile": {"name": profile, **dict(sorted(counts["profile"].items()))}} if profile else {}
    failures += failed
    return {"port": name, "component": port.component, "forward_only": forward_only,
            "golden": dict(sorted(counts["golden"].items())), "properties": dict(sorted(counts["property"].items())), **under,
            "not_supported": dict(declined.most_common(12)), "failures": failures}


def explain(ports_file, out):
    """The rows of EXPLAINED once more, for a stored report."""
    scope = load(os.path.abspath(ports_file))
    with open(out, encoding="utf-8") as file:
        report = json.load(file)
    report["explanations"] = [explained(row) for row in scope["EXPLAINED"]]
    for port in report["ports"]:
        for failure in port["failures"]:
            rows = report["explanations"]
            failure["explained"] = explanation(rows, port["port"], failure["name"], failure["finding"])
    write(report, out)


def write(report, out):
    with open(out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
        file.write("\n")


def ports_of(scope):
    ports = {name: value for name, value in scope.items() if isinstance(value, Port)}
    return ports | {f"{name} {component}": Program(value, component) for name, value in scope.items()
                    if isinstance(value, moeref_port.Port) for component in value.functions if component in COMPONENTS}


def report_of(path):
    return os.path.basename(path).removesuffix(".json")


def main():
    if sys.argv[1] == "--explain":
        return explain(*sys.argv[2:4])
    ports_file, out, date = sys.argv[1:4]
    cases = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    scope = load(os.path.abspath(ports_file))
    ports = ports_of(scope)
    rows = [explained(row) for row in scope.get("EXPLAINED", [])]
    recorded = [record(name, port, rows, cases, scope.get("PROFILE"), report_of(out)) for name, port in ports.items()]
    report = {"format": "moeref-wild", "format_version": 1, "moeref": importlib.metadata.version("moeref"), "date": date,
              "packages": {name: importlib.metadata.version(name) for name in scope["PACKAGES"]},
              "python": platform.python_version(), "about": scope["__doc__"].strip().splitlines()[0],
              "ports_file": os.path.basename(ports_file), "cases_of_a_property": cases, "explanations": rows,
              "ports": recorded}
    write(report, out)


if __name__ == "__main__":
    main()
