"""Ports of Python under properties and golden cases, in a child process and in this one."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import gates
import moeref
from moeref.checking import Item, ItemResult, Report, items_of, run_item
from moeref.opened_port import OpenedPort
from moeref.ports import keyword



SOME = ["token_permutation", "weight_sums"]


@pytest.mark.parametrize("isolated", [True, False])
def test_a_right_gate_passes_and_says_what_it_does_not_support(isolated):
    report = moeref.check(gates.right, cases=60, seed=1, properties=SOME, isolated=isolated)
    ran = [result for result in report.results if result.ran]
    assert report.passed and not report.failures
    assert {result.item.kind for result in ran} == {"property", "golden"}
    reasons = report.not_supported()
    assert any("softmax over all experts only" in reason for reason in reasons), reasons
    assert "PASSED right (gate)" in str(report)


def test_a_wrong_gate_fails_alike_in_a_child_and_here():
    found = []
    for isolated in (True, False):
        with pytest.raises(moeref.CheckFailed) as failed:
            moeref.check(gates.unscaled, cases=60, seed=1, properties=SOME, isolated=isolated)
        report = failed.value.report
        found.append({(one.item.name, one.status, one.finding, one.case) for one in report.failures})
    assert found[0] == found[1]
    assert any("outputs/weights" in finding for _, _, finding, _ in found[0])
    golden = [one for one in report.failures if one.item.kind == "golden"]
    assert golden and all("port outputs/weights" in one.finding for one in golden)


def test_a_failure_is_repeated_by_its_line():
    with pytest.raises(moeref.CheckFailed) as failed:
        moeref.check(gates.unscaled, cases=60, seed=1, properties=SOME, goldens=False)
    one = failed.value.report.failures[0]
    assert one.repeat.startswith("moeref check --port 'exec:python3 -m moeref.child ") and one.case in one.repeat
    status, finding = moeref.repeat(gates.unscaled, one.item.name, one.case)
    assert status == "FAIL" and finding in one.finding
    assert moeref.repeat(gates.right, one.item.name, one.case)[0] == "PASS"


@pytest.mark.parametrize("port, status, said", [(gates.crashing, "CRASHED", "abort"),
                                                 (gates.hanging, "HUNG", ""),
                                                 (gates.raising, "FAIL", "no kernel for this shape (gates.py, line")])
def test_what_a_port_does_instead_of_answering_is_a_finding(port, status, said):
    opened = OpenedPort(port, timeout=3.0)
    item = next(item for item in items_of("gate") if item.name == "cases/gate__softmax_before_topk")
    for _ in range(2):  # the second time by a process that was started anew
        result = run_item(opened, item)
        assert result.failed and result.status == status
        assert said.lower() in result.finding.lower()


def test_notebooks_show_what_failed_and_what_was_not_supported():
    item, wrong = Item("property", "weight_sums", "p > 0"), "weights[3] is <0.5> & 1 belongs"
    port = SimpleNamespace(name="mine", component="gate")
    report = Report(port, "small", 7)
    report.results = [
        ItemResult(item, "FAIL", True, 3, wrong, "T=4", "moeref check", {}),
        ItemResult(item._replace(kind="golden"), "NOT_SUPPORTED", False, 0, "", "", "", {"no groups": 2})]
    page = report._repr_html_()
    assert "<b>FAILED mine (gate)</b>" in page and "scale small, seed 7" in page
    assert "weights[3] is &lt;0.5&gt; &amp; 1 belongs" in page and "<td>T=4</td><td>moeref check</td>" in page
    assert "<td>no groups</td><td>2</td>" in page and page.count("<table>") == page.count("</table>") == 3


def test_what_ran_on_nothing_has_not_passed():
    with pytest.raises(moeref.CheckFailed, match="nothing ran"):
        moeref.check(gates.declining, cases=5, seed=1, properties=SOME)


def test_a_tensor_that_the_function_does_not_take_is_a_reason():
    opened = OpenedPort(gates.right, isolated=False)
    item = next(item for item in items_of("gate") if item.name == "cases/gate__bf16_replay")
    result = run_item(opened, item)
    assert result.status == "NOT_SUPPORTED" and not result.failed and not result.ran
    assert "takes no replay_indices" in str(result.reasons)


def test_keywords_carry_the_golden_names():
    assert keyword("inputs/token_mask") == "token_mask"
    assert keyword("params/gate.weight") == "gate_weight"
    assert keyword("cotangents/y") == "cotangent_y"


def test_a_port_is_still_its_function():
    out = gates.right({"n_activated_experts": 1, "n_routed_experts": 2, "norm_topk_prob": False, "route_scale": 1.0},
                      np.eye(2), np.eye(2))
    assert out["indices"].tolist() == [[0], [1]]
    assert gates.right.__name__ == "right" and inspect.unwrap(gates.right) is gates.right.function


def test_a_port_without_a_file_cannot_be_isolated():
    @moeref.port("gate")
    def local(config, x, weight):
        return {}

    with pytest.raises(ValueError, match="isolated=False"):
        moeref.check(local)


def test_misspelt_declarations_are_errors():
    with pytest.raises(TypeError, match="tise"):
        moeref.port("gate", tise="lowest_id")(lambda config: {})
    with pytest.raises(TypeError, match="arrays is 'tensorflow'"):
        moeref.port("gate", arrays="tensorflow")(lambda config: {})
    with pytest.raises(ValueError, match="no property 'no_such'"):
        moeref.check(gates.right, properties=["no_such"])
