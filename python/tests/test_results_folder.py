"""Results files for a folder of golden files."""

import contextlib
import io
import os
import shutil
import tempfile
import unittest

import talkative_port
from golden_files import make_golden
from moeref_port import BadCase, run_files

FUNCTIONS = talkative_port.port.functions


class ResultsFolderTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.golden, self.out = os.path.join(folder.name, "golden"), os.path.join(folder.name, "out")
        os.makedirs(os.path.join(self.golden, "deeper"))

    def case(self, name, wish=10, component="mlp"):
        return make_golden(os.path.join(self.golden, name), component, arrays={"inputs/x": [[float(wish), 2.0]]})

    def run_quietly(self, golden=None):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            written = run_files(FUNCTIONS, golden or self.golden, self.out)
        return written, said.getvalue()

    def test_each_case_has_a_file_or_a_reason(self):
        for name, wish in (("a.h5", 10), ("b.h5", 1), ("c.h5", 2), ("deeper/d.h5", 10)):
            self.case(name, wish)
        self.case("e.h5", component="gate")
        written, said = self.run_quietly()
        self.assertEqual(written.written, ["a.h5", "d.h5"])
        self.assertEqual(written.not_supported, {"b.h5": "not this one", "e.h5": "this port has no gate"})
        self.assertEqual(list(written.failed), ["c.h5"])
        self.assertEqual(sorted(os.listdir(self.out)), ["a.h5", "b.not_supported", "d.h5", "e.not_supported"])
        with open(os.path.join(self.out, "b.not_supported")) as reason:
            self.assertEqual(reason.read(), "not this one\n")
        self.assertIn("2 results files", said)
        self.assertEqual(written.exit_code, 1)

    def test_results_of_an_earlier_run_do_not_stay(self):
        self.case("a.h5")
        self.assertEqual(self.run_quietly()[0].exit_code, 0)
        self.case("a.h5", wish=2)
        self.run_quietly()
        self.assertEqual(os.listdir(self.out), [])

    def test_a_convention_is_not_supported_unless_it_is_declared(self):
        config = '{"n_routed_experts": 2, "n_activated_experts": 1, "null_slots": "minus_one", "z_loss_coeff": 0.5}'
        path = make_golden(os.path.join(self.golden, "a.h5"), "aux_loss", config=config,
                           arrays={"inputs/indices": [[0]]})
        functions = {"aux_loss": lambda config, options, tensors: {"outputs/aux_loss": 1.0}}
        with contextlib.redirect_stderr(io.StringIO()):
            declined = run_files(functions, path, self.out)
            written = run_files(functions, path, self.out, ["null_slots"])  # the loss does not read z_loss_coeff
        self.assertEqual(declined.not_supported,
                         {"a.h5": "does not declare the convention 'null_slots', which is \"minus_one\" here"})
        self.assertEqual(written.written, ["a.h5"])

    def test_one_file_will_do(self):
        self.assertEqual(self.run_quietly(self.case("a.h5"))[0].written, ["a.h5"])

    def test_nothing_to_do_is_an_error(self):
        with self.assertRaisesRegex(BadCase, "holds no golden files"):
            run_files(FUNCTIONS, self.golden, self.out)

    def test_golden_files_are_not_overwritten(self):
        self.case("a.h5")
        before = os.path.getmtime(os.path.join(self.golden, "a.h5"))
        with self.assertRaisesRegex(BadCase, "is the golden file itself"):
            run_files(FUNCTIONS, self.golden, self.golden)
        self.assertEqual(os.path.getmtime(os.path.join(self.golden, "a.h5")), before)
        shutil.rmtree(self.golden)


if __name__ == "__main__":
    unittest.main()
