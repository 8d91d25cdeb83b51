"""The exec protocol as moeref meets it: a program, its stdin and its stdout."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import h5py

import talkative_port
from golden_files import make_golden
from moeref_port import serve
from moeref_port.exec_protocol import last_line

HERE = os.path.dirname(os.path.abspath(__file__))
HELLO = {"moeref": 1, "request": "hello"}


class ExecProtocolTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def talk(self, *requests):
        """The answers, one for each request, and what went to stderr."""
        lines = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in requests)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((os.path.dirname(HERE), HERE))}
        done = subprocess.run([sys.executable, os.path.join(HERE, "talkative_port.py")], input=lines,
                              capture_output=True, text=True, env=environment, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def run_request(self, wish, **more):
        path = os.path.join(self.folder, f"{wish}.h5")
        make_golden(path, arrays={"inputs/x": [[float(wish), 2.0]]})
        return {"request": "run", "case": "made", "component": "mlp", "backward": False, "input": path,
                "output": os.path.join(self.folder, f"out_{wish}.h5"), **more}

    def test_hello_declares_everything(self):
        [answer], _ = self.talk(HELLO)
        self.assertEqual(answer, {
            "name": "talkative", "version": "7", "components": ["mlp"], "passes": ["forward"],
            "dtypes": ["float32", "bfloat16", "float16", "float64"], "stages": [], "ties": "open",
            "accumulation": "float32", "storage": "", "deterministic": True, "batch_invariant": False,
            "init_generator": "own", "products": "float32", "conventions": [], "max_ranks": 2})

    def test_results_are_written_and_prints_stay_out(self):
        answers, errors = self.talk(HELLO, self.run_request(10), self.run_request(10))
        self.assertEqual(answers[1:], [{"status": "ok"}] * 2)
        with h5py.File(os.path.join(self.folder, "out_10.h5")) as file:
            self.assertEqual(file["outputs/y"][0, 0], 20.0)
        for said in ("printed by the port", "written by C code", "said by a child"):
            self.assertEqual(errors.count(said), 2, errors)

    def test_not_supported(self):
        answers, _ = self.talk(self.run_request(1), self.run_request(10, component="mlp"))
        self.assertEqual(answers[0], {"status": "not_supported", "reason": "not this one"})
        path = make_golden(os.path.join(self.folder, "gate.h5"), component="gate")
        answers, _ = self.talk(self.run_request(10, input=path, component="gate"))
        self.assertEqual(answers, [{"status": "not_supported", "reason": "this port has no gate"}])

    def test_exceptions_are_answers_and_the_port_goes_on(self):
        answers, errors = self.talk(*(self.run_request(wish) for wish in (2, 3, 4, 10)))
        self.assertEqual([a["status"] for a in answers], ["error", "error", "error", "ok"])
        self.assertIn("second line", answers[0]["reason"])
        self.assertIn("SystemExit: 5", answers[1]["reason"])
        self.assertIn("want a name like outputs/weights", answers[2]["reason"])
        self.assertIn("Traceback", errors)

    @unittest.skipIf(sys.version_info < (3, 11), "exceptions have notes from Python 3.11 on")
    def test_notes_of_exceptions_are_not_the_reason(self):
        error = ValueError("shapes differ")
        error.add_note("--------------------\nFrames were removed.")
        self.assertEqual(last_line(error), "ValueError: shapes differ")

    def test_the_request_says_whether_gradients_are_wanted(self):
        answers, _ = self.talk(self.run_request(5, backward=True), HELLO)
        self.assertEqual(answers[0], {"status": "ok"})
        with h5py.File(os.path.join(self.folder, "out_5.h5")) as file:
            self.assertEqual(list(file["outputs/y"]), [0.0, 1.0])  # and the port's stdin is empty

    def test_bad_requests_are_errors(self):
        answers, _ = self.talk("no JSON", "[]", "{}", {"request": "dance"}, {"moeref": 2, "request": "hello"},
                               {"request": "run"}, self.run_request(10, input="/nowhere.h5"), HELLO)
        self.assertEqual([a.get("status") for a in answers], ["error"] * 7 + [None])
        self.assertIn("unknown request 'dance'", answers[3]["reason"])
        self.assertIn("protocol version 2", answers[4]["reason"])
        self.assertIn("/nowhere.h5: cannot be read", answers[6]["reason"])

    def test_unknown_capabilities_are_refused(self):
        with self.assertRaisesRegex(TypeError, "unknown capability 'speed'"):
            serve(talkative_port.port.functions, name="x", speed=3)


if __name__ == "__main__":
    unittest.main()
