"""The page of what public implementations do is what its command makes of the stored reports, and explains each failure."""

import glob
import json
import os
import subprocess
import sys
import unittest

from golden_files import EXAMPLES
from moeref_port.cases import FIELDS

WILD = os.path.join(EXAMPLES, "..", "wild")


class FindingsTest(unittest.TestCase):
    def test_the_page_is_made_of_the_reports(self):
        made = subprocess.run([sys.executable, "-B", os.path.join(WILD, "page.py"), os.path.join(WILD, "reports")],
                              check=True, capture_output=True, text=True).stdout
        with open(os.path.join(WILD, "FINDINGS.md"), encoding="utf-8") as page:
            self.assertEqual(page.read(), made, "ci/wild.sh --page makes it anew")

    def test_every_failure_is_explained_and_reports_are_small(self):
        files = glob.glob(os.path.join(WILD, "reports", "*.json"))
        self.assertGreaterEqual(len(files), 10)
        for path in files:
            self.assertLess(os.path.getsize(path), 200_000, path)
            with open(path, encoding="utf-8") as file:
                report = json.load(file)
            for port in report["ports"]:
                asked = [port["golden"], *(asked["counts"] for asked in port.get("conventions", []))]
                self.assertGreater(sum(count for counts in asked for verdict, count in counts.items() if verdict != "NOT_SUPPORTED"), 0,
                                   f"{path}: {port['port']} was not judged")
                for failure in port["failures"]:
                    self.assertIsNotNone(failure["explained"], f"{path}: {port['port']} {failure['name']}")

    def test_every_convention_was_asked_of_whom_its_row_names(self):
        with open(os.path.join(WILD, "conventions.json"), encoding="utf-8") as file:
            table = json.load(file)
        fields = {field for row in table["rows"] for field in row["fields"]}
        self.assertLessEqual(fields - set(FIELDS["config"]), set(), "conventions.json names fields that there are not")
        for row in table["rows"]:
            self.assertTrue(row["judged"] or row.get("classes") or row.get("note"), f"{row['id']}: nobody is asked, without a reason")
            for entry in row["judged"]:
                with open(os.path.join(WILD, "reports", entry["report"] + ".json"), encoding="utf-8") as file:
                    ports = {port["port"]: port for port in json.load(file)["ports"]}
                found = [asked["counts"] for asked in ports[entry["port"]]["conventions"]
                         if (asked["row"], asked["config"]) == (row["id"], entry["config"])]
                types = len(entry.get("dtypes", ["float32", "bfloat16"]))
                self.assertTrue(found, f"{row['id']}: {entry['port']} was not recorded")
                for counts in found:
                    judged = sum(count for verdict, count in counts.items() if verdict != "NOT_SUPPORTED")
                    self.assertEqual(judged, types * table["seeds"], f"{row['id']}: {entry['port']} declined calls")

    def test_most_router_classes_are_expressible(self):
        with open(os.path.join(WILD, "router_classes.json"), encoding="utf-8") as file:
            classes = json.load(file)["classes"]
        self.assertGreaterEqual(sum(one["expressible"] for one in classes.values()), 60)
        for name, one in classes.items():
            if one["expressible"] and one["bfloat16"]["passed"] < one["bfloat16"]["of"]:
                self.assertTrue(one["rounds"], f"{name} differs in bfloat16, without a reason")


if __name__ == "__main__":
    unittest.main()
