"""`pytest --moeref FILE`: items, failures, and ports that crash or hang."""

import os
import shutil

import pytest

pytest_plugins = ["pytester"]
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def run(pytester):
    shutil.copy(os.path.join(HERE, "gates.py"), pytester.path / "gates.py")

    def run(ports, *arguments):
        file = pytester.makepyfile(kernels=f"from gates import *\nimport gates\n{ports}\n")
        return pytester.runpytest_subprocess("--moeref", "-p", "no:cacheprovider", *arguments, str(file))

    return run


PORT = """
@moeref.port("gate", supports=is_plain, accumulation="float64")
def {name}(config, x, weight, token_mask=None):
    {body}
"""
RIGHT = PORT.format(name="right_one", body="return compute(config, x, weight, token_mask)")
WRONG = PORT.format(name="wrong_one", body='return compute({**config, "route_scale": 1.0}, x, weight, token_mask)')
CRASHING = PORT.format(name="crashing_one", body="os.abort()")
HANGING = PORT.format(name="hanging_one", body="time.sleep(3600)")
QUICK = ["--moeref-cases", "60", "-k", "token_permutation or gate__softmax_before_topk_scale"]


def test_an_item_for_each_property_and_case(run):
    result = run(RIGHT, "--collect-only", "-q")
    text = result.stdout.str()
    assert "kernels.py::right_one[property/token_permutation]" in text
    assert "kernels.py::right_one[golden/cases/gate__softmax_before_topk]" in text
    assert "golden/documented_system/gate__" in text
    assert "::unscaled[" not in text  # imported from another file, which is not given


def test_a_right_port_passes(run):
    outcomes = run(RIGHT, *QUICK).parseoutcomes()
    assert outcomes["passed"] >= 2 and "failed" not in outcomes


def test_a_failure_shows_the_case_and_the_line_that_repeats_it(run):
    result = run(WRONG, "--moeref-cases", "60", "-k", "weight_sums or gate__softmax_before_topk_scale")
    assert result.parseoutcomes()["failed"] >= 2
    result.stdout.fnmatch_lines_random(
        ["FAIL property weight_sums", "*outputs/weights*", "  case: gate *seed=*",
         "  repeat: moeref check --port *wrong_one*--property weight_sums --repeat *",
         "FAIL golden cases/gate__softmax_before_topk_scale", "*port outputs/weights*, bound *"])
    assert "pytest_plugin.py" not in result.stdout.str()


def test_markers_choose(run):
    outcomes = run(RIGHT, "--moeref-cases", "5", "-m", "moeref_property", "-k", "weight_sums or gate__softmax_before_topk_scale").parseoutcomes()
    assert outcomes["deselected"] > 50


@pytest.mark.parametrize("workers", [0, 2])
def test_a_crash_or_a_hang_does_not_end_the_run(run, workers):
    if workers:
        pytest.importorskip("xdist")
    parallel = ["-n", str(workers)] if workers else []
    result = run(CRASHING + HANGING + RIGHT, *QUICK, *parallel, "--moeref-timeout", "4")
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] >= 4 and outcomes["passed"] >= 2
    result.stdout.fnmatch_lines_random(["CRASHED property token_permutation", "HUNG property token_permutation"])
