"""The section of the conventions, row by row: conventions.json's rows, with what the reports and router_classes.json say."""
import json
import os

VERDICTS = ["PASS", "AMBIGUOUS", "FAIL", "CRASHED", "HUNG"]
HEAD = """## Conventions, row by row

Rules of real layers that the documented system does not have (`reference_cpu/SPEC.md` 10), each judged on implementations that use it.
`conventions.json` has for every row its fields and whom it asks; the figures are those of the reports and of `router_classes.json`. An
implementation is asked {seeds} calls of {tokens} random tokens in each type that it computes in (`moeref generate --config`), forward and, where
it has gradients, backward; a router class {per_k} for each k, type and kind of tokens. *Told apart* are the passing calls whose
results fail when the row's fields are at their defaults instead ("." where no such call can be made): they pass because of the convention.

**{agreeing} of {rows}** rows have a real implementation that passes every call of a type; in {differing} rows a call differs.
"""
TYPES = ("float32", "bfloat16")


def table(rows):
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows) + "\n"


def holds(row, fields):
    """Whether a class with these fields has the row's convention: one of its conditions; null is any value, false none."""
    return any(all(name in fields if value is None else fields.get(name, False) == value for name, value in condition.items())
               for condition in row.get("classes", []))


def of_classes(row, classes):
    """The line of the router classes of transformers that have the row's convention, or nothing."""
    found = {name: one for name, one in classes["classes"].items() if holds(row, one["fields"])}
    if not found:
        return []
    of, passed = (sum(one[dtype][key] for one in found.values() for dtype in TYPES) for key in ("of", "passed"))
    least = {dtype: [name for name, one in found.items() if one[dtype]["passed"] < one[dtype]["of"]] for dtype in TYPES}
    apart = [one["told_apart"][row["id"]] for one in found.values()]
    names = ", ".join(list(found)[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [{"who": f"transformers {classes['transformers']}: {len(found)} router class{'es' if len(found) > 1 else ''} ({names})",
             "calls": of, "passed": passed, "apart": "." if None in apart else sum(apart), "agrees": not all(least.values()),
             "why": "; ".join(f"{name} in {dtype}: {found[name]['rounds'] or 'unexplained'}"
                              for dtype in TYPES for name in least[dtype])}]


def of_ports(row, reports):
    """A line for each implementation that the row asks, of what its report says."""
    lines = []
    for entry in row["judged"]:
        report = next(report for report in reports if report["path"] == entry["report"] + ".json")
        port = next(port for port in report["ports"] if port["port"] == entry["port"])
        asked = next(asked for asked in port["conventions"] if (asked["row"], asked["config"], asked["data"]) ==
                     (row["id"], entry["config"], entry.get("data", {})))
        counts, without = asked["counts"], asked["without"]
        passed, judged = counts.get("PASS", 0) + counts.get("AMBIGUOUS", 0), sum(counts.get(verdict, 0) for verdict in VERDICTS)
        what = []
        if passed < judged:
            reasons = {failure["explained"] for failure in port["failures"] if failure["name"].startswith(f"drawn/{row['id']}_")}
            rows = [report["explanations"][index] for index in sorted(reasons)]
            what = [f"{one['kind']}: {one['what']}" for one in rows]
        fields = [f"{name} {json.dumps(value)}" for name, value in entry["config"].items() if name in row["fields"]]
        name, version = next(iter(report["packages"].items()))
        lines.append({"who": ", ".join([f"{name} {version}: `{entry['port']}`", *fields, *([entry["says"]] if "says" in entry else [])]),
                      "calls": judged, "passed": passed, "agrees": passed == judged, "why": " ".join(what),
                      "apart": without.get("FAIL", 0) if without.keys() - {"no such call"} else "."})
    return lines


def conventions(folder, reports):
    """The section of the conventions."""
    with open(os.path.join(folder, "conventions.json"), encoding="utf-8") as file:
        asked = json.load(file)
    with open(os.path.join(folder, "router_classes.json"), encoding="utf-8") as file:
        classes = json.load(file)
    cells = [["convention", "fields", "implementation", "calls", "pass", "told apart", "where it differs"], ["---"] * 7]
    agreeing = differing = 0
    for row in asked["rows"]:
        lines = of_ports(row, reports) + of_classes(row, classes)
        agreeing += any(line["agrees"] for line in lines)
        differing += any(line["passed"] < line["calls"] for line in lines)
        names = [row["convention"], ", ".join(f"`{name}`" for name in row["fields"])]
        for line in lines:
            cells.append([*names, line["who"], line["calls"], line["passed"], line["apart"], line["why"]])
            names = ["", ""]
        if "note" in row:
            cells.append([*names, row["note"], *[""] * 4])
    head = HEAD.format(seeds=asked["seeds"], tokens=asked["tokens"], per_k=classes["calls"], agreeing=agreeing,
                       rows=len(asked["rows"]), differing=differing)
    return head + "\n" + table(cells)
