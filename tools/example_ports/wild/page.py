#!/usr/bin/env python3
"""Prints the page of findings from the recorded reports: python3 page.py REPORTS_FOLDER > FINDINGS.md

conventions.json and router_classes.json lie beside the folder.
"""
import collections
import glob
import json
import os
import sys

from conventions_page import VERDICTS, conventions, table

HEAD = """# What public implementations do

Made by `page.py` from the reports in `reports/`, which `ci/wild.sh` records. Every figure and every finding here stands in one
of them; the source lines were looked up in the package as it was installed. Golden cases and properties are those of the
component, forward and backward where the port has gradients. What a package cannot be asked for is not supported, with
its reason in the report; it is no verdict. Where the ports' file names a profile of `moeref generate`, the catalogue as it changes
it was judged, too.

Each failure has one of these reasons, or is *unexplained*:

| reason | meaning |
|---|---|
| bug | the package does other than it says, or raises an exception |
| convention | another formula than the documented system's, deliberately so; the field is named where moeref's config has one |
| rounding | the same formula, which rounds elsewhere |
| limit | the package says no, in an exception |
| port | the port is at fault, not the package |
"""
def versions(report):
    return ", ".join(f"{name} {version}" for name, version in report["packages"].items())


def overview(reports):
    rows = [["package", "port", "component", "judged", *VERDICTS, "not supported", "properties"], ["---"] * 11]
    for report in reports:
        for port in report["ports"]:
            golden, properties = port["golden"], port["properties"]
            counts = [golden.get(verdict, 0) for verdict in VERDICTS]
            ran = {status: count for status, count in properties.items() if status in ("PASS", "FAIL", "FLAKY", "CRASHED", "HUNG")}
            words = ", ".join(f"{count} {status}" for status, count in ran.items()) or "."
            rows.append([next(iter(report["packages"].items())).__str__().strip("()").replace("'", "").replace(",", ""),
                         port["port"], port["component"] + (", forward" if port["forward_only"] else ""), sum(counts), *counts,
                         golden.get("NOT_SUPPORTED", 0), words])
    return table(rows)


def one_line(text, width=220):
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= width else text[:width - 1] + "…"


def smallest(failures):
    """The failure to show: a shrunk property's, else the first golden case's."""
    return next((failure for failure in failures if failure.get("case")), failures[0])


def findings(report):
    """The findings of a package: its failures, grouped by explanation."""
    groups = collections.defaultdict(list)
    for port in report["ports"]:
        for failure in port["failures"]:
            groups[failure["explained"]].append({**failure, "port": port["port"]})
    parts = []
    for index in sorted(groups, key=lambda index: (index is None, index)):
        failures = groups[index]
        row = report["explanations"][index] if index is not None else {"kind": "unexplained", "what": "No reason was found."}
        shown = smallest(failures)
        text = [f"* **{row['kind']}**, {len(failures)} failure{'s' if len(failures) > 1 else ''}: {row['what']}"]
        if row.get("field"):
            text.append(f"  Field: `{row['field']}`.")
        if row.get("source"):
            source = row["source"]
            text.append(f"  Source: `{source['file']}:{source['line']}`, `{source['text']}`")
        text.append(f"  Seen in {shown['port']}, `{shown['name']}`: {one_line(shown['finding'])}")
        if shown.get("case"):
            text.append(f"  Smallest case: `{shown['case']}`")
        others = sorted({f"{failure['name'].split('/')[-1]}" for failure in failures} - {shown["name"].split("/")[-1]})
        if others:
            text.append("  Also: " + ", ".join(f"`{name}`" for name in others[:12]) + (f" and {len(others) - 12} more" if len(others) > 12 else ""))
        passing = collections.Counter(f"{failure['passes_with']['field']} = {json.dumps(failure['passes_with']['value'])}"
                                      for failure in failures if failure.get("passes_with"))
        for convention, count in passing.items():
            golden = sum(failure["kind"] == "golden" for failure in failures)
            text.append(f"  Judged once more with `{convention}`: {count} of {golden} golden cases pass.")
        parts.append("\n".join(text))
    return "\n".join(parts) if parts else "No failures."


def under_profile(report):
    """What came of the catalogue as a profile changes it, or nothing."""
    lines = []
    for port in report["ports"]:
        if counts := dict(port.get("profile", {})):
            name = counts.pop("name")
            judged = sum(counts.get(verdict, 0) for verdict in VERDICTS)
            words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts.get(verdict)) or "none"
            lines.append(f"* {port['port']} under `generate --profile {name}`: of {judged} judged {words}; "
                         f"{counts.get('NOT_SUPPORTED', 0)} not supported.")
    return "\n".join(lines) + "\n" if lines else ""


def main():
    reports = []
    for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
        with open(path, encoding="utf-8") as file:
            reports.append({**json.load(file), "path": os.path.basename(path)})
    print(HEAD)
    print(f"## {len({next(iter(report['packages'])) for report in reports})} packages\n")
    print(overview(reports))
    print(conventions(os.path.dirname(os.path.abspath(sys.argv[1])), reports))
    for report in reports:
        print(f"## {versions(report)}\n")
        print(f"{report['about']} Recorded {report['date']} with moeref {report['moeref']}, Python {report['python']}, "
              f"by `{report['ports_file']}`: `reports/{report['path']}`.\n")
        print(under_profile(report) + findings(report) + "\n")


if __name__ == "__main__":
    main()
