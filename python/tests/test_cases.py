"""Reading golden files and writing results files."""

import json
import os
import subprocess
import tempfile
import unittest

import h5py
import numpy as np

from golden_files import CASES, DOCUMENTED, make_golden
from moeref_port import BadCase, read_case, write_results
from moeref_port.cases import FIELDS


class ReadCaseTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "case.h5")

    def test_bfloat16_has_its_values_in_float32(self):
        case = read_case(os.path.join(CASES, "experts__bf16_geglu.h5"))
        x = case.tensors["inputs/x"]
        self.assertEqual((case.component, case.name), ("experts", "bf16_geglu"))
        self.assertEqual((x.dtype, case.tensors.dtypes["inputs/x"]), (np.float32, "bfloat16"))
        self.assertFalse((x.view(np.uint32) & 0xFFFF).any(), "more digits than bfloat16 has")
        with h5py.File(os.path.join(CASES, "experts__bf16_geglu.h5")) as file:
            self.assertEqual(file["inputs/x"].id.get_type().get_size(), 2)

    def test_types_are_the_documented_ones(self):
        tensors = read_case(os.path.join(DOCUMENTED, "gate__sigmoid.h5")).tensors
        self.assertEqual(tensors["inputs/token_mask"].dtype, bool)
        self.assertEqual(tensors["inputs/x"].dtype, np.float32)
        case = read_case(os.path.join(CASES, "mlp__fp64_swiglu_limit_bias.h5"))
        self.assertEqual(case.tensors["inputs/x"].dtype, np.float64)

    def test_every_committed_case_is_read(self):
        for folder in (CASES, DOCUMENTED):
            for name in os.listdir(folder):
                if name.endswith(".h5"):
                    case = read_case(os.path.join(folder, name))
                    self.assertEqual(f"{case.component}__{case.name}.h5", name)
                    self.assertIn("dtype", case.config)

    def test_left_out_fields_have_their_defaults(self):
        case = read_case(make_golden(self.path))
        self.assertEqual(case.config, {"dim": 2, "inter_dim": 4, "dtype": "float32", "activation": "swiglu",
                                       "bias": False, "swiglu_limit": 0.0, "situ_beta": 4.0, "situ_linear_beta": 25.0})
        self.assertIs(case.options["training"], True)
        self.assertFalse(case.backward)

    def test_fields_are_the_commands_own(self):
        command = os.environ.get("MOEREF_COMMAND")
        if not command:
            self.skipTest("MOEREF_COMMAND is not set")
        printed = subprocess.run([command, "list", "fields", "--json"], check=True, capture_output=True, text=True)
        self.assertEqual(json.loads(printed.stdout), FIELDS,
                         "moeref list fields --json > python/moeref_port/fields.json")

    def test_backward_is_wanted_where_gradients_are_recorded(self):
        arrays = {"inputs/x": [[1.0, 2.0]], "grads/x": [[0.0, 0.0]]}
        case = read_case(make_golden(self.path, arrays=arrays))
        self.assertTrue(case.tensors.backward)
        self.assertEqual(list(case.tensors), ["inputs/x"])

    def test_what_is_no_golden_file_is_named(self):
        with self.assertRaisesRegex(BadCase, "nowhere.h5: cannot be read"):
            read_case("nowhere.h5")
        with open(self.path, "wb") as file:
            file.write(b"no HDF5")
        with self.assertRaisesRegex(BadCase, "case.h5: cannot be read"):
            read_case(self.path)
        with h5py.File(self.path, "w"):
            pass
        with self.assertRaisesRegex(BadCase, "schema_version is None"):
            read_case(self.path)
        make_golden(self.path, version=2)
        with self.assertRaisesRegex(BadCase, "case.h5: schema_version is 2: this module reads version 1"):
            read_case(self.path)
        make_golden(self.path, config="{")
        with self.assertRaisesRegex(BadCase, "case.h5: attribute 'config' is not JSON"):
            read_case(self.path)
        make_golden(self.path, call="[]")
        with self.assertRaisesRegex(BadCase, "attribute 'call' is no JSON object"):
            read_case(self.path)


class WriteResultsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.path = folder.name, os.path.join(folder.name, "out", "case.h5")

    def test_arrays_come_back(self):
        arrays = {"outputs/y": np.float16([[1, 2]]), "outputs/aux_loss": np.float64(0.5), "grads/x": [1.0, -2.0],
                  "outputs/indices": np.int32([[3]]), "stages/mask": np.array([True, False])}
        write_results(self.path, arrays)
        with h5py.File(self.path) as file:
            for name, array in arrays.items():
                np.testing.assert_array_equal(file[name][()], array)
            self.assertEqual(file["outputs/y"].dtype, np.float16)
            self.assertEqual(file["outputs/aux_loss"].shape, ())
            self.assertEqual(file["stages/mask"].dtype, np.uint8)

    def test_what_is_no_result_is_named(self):
        for arrays, words in (({"y": [1.0]}, "result 'y': want a name like"),
                              ({"inputs/x": [1.0]}, "result 'inputs/x'"), ({"outputs/": [1.0]}, "result 'outputs/'"),
                              ({"outputs/y": ["text"]}, "'outputs/y' has dtype"), ({}, "returned no arrays"),
                              (None, "returned NoneType"), ({"outputs/y": [1j]}, "dtype complex128")):
            with self.assertRaisesRegex(ValueError, words):
                write_results(self.path, arrays)
        self.assertEqual(os.listdir(self.folder), [])

    def test_an_existing_file_is_replaced_whole(self):
        write_results(self.path, {"outputs/y": [1.0], "stages/logits": [2.0]})
        write_results(self.path, {"outputs/y": [3.0]})
        with h5py.File(self.path) as file:
            self.assertEqual(list(file), ["outputs"])
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["case.h5"])


if __name__ == "__main__":
    unittest.main()
