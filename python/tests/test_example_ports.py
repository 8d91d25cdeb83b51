"""The example ports as a user runs them, judged by the moeref command (MOEREF_COMMAND)."""

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from golden_files import CASES, DOCUMENTED, EXAMPLES

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md")
PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")

MOEREF = os.environ.get("MOEREF_COMMAND", "")


@unittest.skipUnless(os.path.isfile(MOEREF), "MOEREF_COMMAND names no moeref command")
class ExamplePortsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def validate(self, port, files):
        """The JSON report."""
        report = os.path.join(self.folder, "report.json")
        done = subprocess.run([MOEREF, "validate", "--port", port, *files, "--quiet", "--json", report],
                              capture_output=True, text=True, timeout=280)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        with open(report) as file:
            return json.load(file)

    def assert_all_pass(self, report, count):
        """Conventions beyond the documented system aside, which the port does not declare."""
        trouble = [f"{case['case']}: {case['verdict']}" for case in report["cases"]
                   if case["verdict"] not in ("PASS", "AMBIGUOUS")
                   and "does not declare the convention" not in case.get("finding", "")]
        self.assertEqual(trouble, [])
        self.assertEqual(len(report["cases"]), count)

    def write_results(self, program, files):
        """Runs the port over copies of these files; the folder with its results."""
        golden, out = os.path.join(self.folder, "golden"), os.path.join(self.folder, "out")
        os.makedirs(golden, exist_ok=True)
        for path in files:
            shutil.copy(path, golden)
        subprocess.run([sys.executable, "-B", os.path.join(EXAMPLES, program), golden, out], check=True,
                       capture_output=True, timeout=280)
        return out

    def test_numpy_gate_writes_results(self):
        files = [path for folder in (CASES, DOCUMENTED) for path in sorted(glob.glob(f"{folder}/gate__*.h5"))]
        unique = list({os.path.basename(path): path for path in files}.values())
        self.assertGreater(len(unique), 100)
        out = self.write_results("numpy_gate.py", unique)
        self.assert_all_pass(self.validate(f"results:{out}", unique), len(unique))

    def test_a_wrong_gate_is_found(self):
        """The same port with one line wrong: were the verdicts blind, it would pass too."""
        with open(os.path.join(EXAMPLES, "numpy_gate.py")) as file:
            text = file.read()
        wrong = text.replace("at(seen, ids)", "at(choice, ids)")  # weights from the biased scores
        self.assertNotEqual(wrong, text)
        wrong = wrong.replace("os.path.abspath(__file__)", repr(os.path.join(EXAMPLES, "numpy_gate.py")))
        program = os.path.join(self.folder, "wrong_gate.py")
        with open(program, "w") as file:
            file.write(wrong)
        files = [os.path.join(CASES, f"gate__{name}.h5") for name in ("sigmoid", "sigmoid_forced_bias")]
        report = self.validate(f"results:{self.write_results(program, files)}", files)
        self.assertEqual([case["verdict"] for case in report["cases"]], ["PASS", "FAIL"])
        first = next(t for t in report["cases"][1]["tensors"] if t["verdict"] == "FAIL")
        self.assertEqual(first["tensor"], "outputs/weights")

    def test_numpy_gate_answers_over_pipes(self):
        files = sorted(glob.glob(f"{DOCUMENTED}/gate__*.h5"))
        program = os.path.join(EXAMPLES, "numpy_gate.py")
        self.assert_all_pass(self.validate(f"exec:{sys.executable} -B {program}", files), len(files))

    def test_the_gate_in_the_readme_is_right(self):
        """It is forward only, and says what it does not support; nothing that it computes is wrong."""
        with open(README) as file:
            text = file.read()
        program = os.path.join(self.folder, "my_gate.py")
        with open(program, "w") as file:
            file.write(f"import sys\nsys.path.insert(0, {PACKAGE!r})\n")
            file.write(text.split("```python\n")[1].split("```")[0])
        files = [path for folder in (CASES, DOCUMENTED) for path in sorted(glob.glob(f"{folder}/gate__*.h5"))]
        report = self.validate(f"exec:{sys.executable} -B {program}", files)
        verdicts = report["total"]["verdicts"]
        self.assertEqual(verdicts.get("FAIL", 0), 0)
        self.assertGreater(verdicts["PASS"], 10)
        self.assertEqual(sum(verdicts.values()), len(files))
        self.assertTrue(any(case["forward_only"] and case["verdict"] == "PASS" for case in report["cases"]))


if __name__ == "__main__":
    unittest.main()
