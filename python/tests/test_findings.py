"""The page of what public implementations do is what its command makes of the stored reports, and explains each failure."""

import glob
import json
import os
import subprocess
import sys
import unittest

from golden_files import EXAMPLES

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
                self.assertGreater(sum(count for verdict, count in port["golden"].items() if verdict != "NOT_SUPPORTED"), 0,
                                   f"{path}: {port['port']} was not judged")
                for failure in port["failures"]:
                    self.assertIsNotNone(failure["explained"], f"{path}: {port['port']} {failure['name']}")


if __name__ == "__main__":
    unittest.main()
