"""Properties and golden cases against a port."""

import collections
import glob
import html
import os
import random
import time
from typing import NamedTuple

from . import child
from .opened_port import TIMEOUT, OpenedPort, suite

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")


class Item(NamedTuple):
    """A property or a golden case that a port can be asked for."""

    kind: str  #: "property" or "golden"
    name: str
    checks: str  #: what it states, or the file's path


class ItemResult(NamedTuple):
    """What came of an item; `repeat` is the line that shows a failure again."""

    item: Item
    status: str  #: "PASS", "FAIL", "FLAKY", "VACUOUS", "AMBIGUOUS", "NOT_SUPPORTED", "CRASHED", "HUNG"
    failed: bool
    ran: int  #: cases that were judged
    finding: str
    case: str
    repeat: str
    reasons: dict  #: why cases were not supported or discarded, and how many

    def __str__(self):
        lines = [f"{self.status} {self.item.kind} {self.item.name}"]
        if self.failed:
            lines += [f"  {self.finding}"] if self.finding else [f"  {n} x {why}" for why, n in self.reasons.items()]
            lines += [f"  case: {self.case}"] if self.case else []
            lines += [f"  checks: {self.item.checks}", f"  repeat: {self.repeat}" if self.repeat else ""]
        return "\n".join(line for line in lines if line)


class Report:
    """What `check` found: `results`, `failures`, and why calls were not supported."""

    def __init__(self, port, scale, seed):
        self.port, self.scale, self.seed, self.seconds = port, scale, seed, 0.0
        self.results = []

    @property
    def failures(self):
        return [result for result in self.results if result.failed]

    @property
    def passed(self):
        """Nothing failed, and something ran."""
        return not self.failures and any(result.ran for result in self.results)

    def not_supported(self):
        """{reason: how many calls}, the most frequent first."""
        counts = collections.Counter()
        for result in self.results:
            counts.update(result.reasons if result.status == "NOT_SUPPORTED" else {})
        return dict(counts.most_common())

    def _counts(self):
        """[((kind, status), how many results)]"""
        return sorted(collections.Counter((result.item.kind, result.status) for result in self.results).items())

    def _end(self):
        end = "PASSED" if self.passed else "FAILED" if self.failures else "FAILED: nothing ran"
        return f"{end} {self.port.name} ({self.port.component})"

    def _setting(self):
        return f"scale {self.scale}, seed {self.seed}, {self.seconds:.1f} s"

    def __str__(self):
        lines = [str(result) for result in self.failures]
        lines += [f"NOT_SUPPORTED {count} x {reason}" for reason, count in self.not_supported().items()]
        words = ", ".join(f"{count} {kind} {status}" for (kind, status), count in self._counts())
        return "\n".join([*lines, f"{self._end()}: {words}; {self._setting()}"])

    def _repr_html_(self):
        """What notebooks show: the end, counts by kind and status, every failure, and what was not supported."""

        def table(head, rows):
            cells = lambda tag, row: "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)  # noqa: E731
            lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
            return f"<table><tr>{cells('th', head)}</tr>{lines}</table>" if lines else ""

        return (f"<p><b>{html.escape(self._end())}</b>; {html.escape(self._setting())}</p>"
                + table(["kind", "status", "items"], [[*key, count] for key, count in self._counts()])
                + table(["failed", "status", "finding", "case", "repeat"],
                        [[r.item.name, r.status, r.finding or "; ".join(r.reasons), r.case, r.repeat]
                         for r in self.failures])
                + table(["not supported", "calls"], self.not_supported().items()))


class CheckFailed(AssertionError):
    """Raised by `check`: the text of its `report`."""

    def __init__(self, report):
        super().__init__("\n" + str(report))
        self.report = report


def items_of(component, scale="small", goldens=True):
    """The properties and golden cases of a component."""
    items = [Item("property", row["name"], row["checks"]) for row in suite()
             if component in row["components"] and (scale == "small" or row["any_scale"])]
    files = sorted(glob.glob(os.path.join(GOLDEN, "*", f"{component}__*.h5"))) if goldens else []
    folder_of = lambda file: os.path.basename(os.path.dirname(file))  # noqa: E731
    return items + [Item("golden", f"{folder_of(file)}/{os.path.basename(file)[:-3]}", file) for file in files]


def run_item(opened, item, *, scale="small", seed=1, cases=None, forward_only=False):
    """Asks an OpenedPort for one item."""
    if item.kind == "golden":
        out = opened.validate(item.checks, forward_only=forward_only)
        unsupported = out["status"] == "NOT_SUPPORTED"
        finding = "; ".join([out["finding"], out["about"]] if out["about"] else [out["finding"]])
        return ItemResult(item, out["status"], out["failed"], 0 if unsupported else 1, finding, "", "",
                          {out["finding"]: 1} if unsupported else {})
    out = opened.check(item.name, scale=scale, seed=seed, cases=cases, forward_only=forward_only)
    finding = "; ".join([out["finding"], *out["thresholds"]])
    repeat = opened.repeat_line(item.name, out["case"], scale) if out["case"] else ""
    return ItemResult(item, out["status"], out["failed"], out["passed"] + bool(out["case"]), finding, out["case"],
                      repeat, out["reasons"])


def check(port, *, scale="small", seed=None, cases=None, properties=None, goldens=True, isolated=True,
          timeout=TIMEOUT, forward_only=False):
    """The Report on a Port; raises CheckFailed, an AssertionError, where something fails or nothing ran.

    scale         "small"; "kernel": widths of published models; "full": their layers, for ports on a GPU
    cases         of each property; without it 100, at the scales kernel 2 and full 1
    properties    names, in place of all of the component
    goldens       whether the recorded cases are judged, too
    isolated      in a child process, so that a crash or a call longer than `timeout` seconds is a finding
    """
    if child.LOADING:
        raise child.Loaded
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    items = items_of(port.component, scale, goldens)
    if properties is not None:
        unknown = set(properties) - {item.name for item in items if item.kind == "property"}
        if unknown:
            raise ValueError(f"{port.component} has no property '{sorted(unknown)[0]}' at the scale {scale}")
        items = [item for item in items if item.kind == "golden" or item.name in properties]
    report, began = Report(port, scale, seed), time.monotonic()
    opened = OpenedPort(port, isolated=isolated, timeout=timeout)
    for item in items:
        report.results.append(
            run_item(opened, item, scale=scale, seed=seed, cases=cases, forward_only=forward_only))
    report.seconds = time.monotonic() - began
    if not report.passed:
        raise CheckFailed(report)
    return report


def repeat(port, name, line, *, isolated=True, timeout=TIMEOUT):
    """The one case of a property that a failure's line stands for: ("PASS", "") or ("FAIL", finding)."""
    if child.LOADING:
        raise child.Loaded
    out = OpenedPort(port, isolated=isolated, timeout=timeout).repeat(name, line)
    return out["status"], out["finding"]
