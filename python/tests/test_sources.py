"""Files that no build compiles: each Python file is Python, also that of a port whose package is not installed, and no page or
table holds what a merge left undecided."""

import ast
import os
import re
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TEXTS = (".py", ".md", ".json", ".cmake", ".txt", ".sh", ".toml")


def sources():
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith((".", "build", "out"))]
        yield from (os.path.join(folder, file) for file in files if file.endswith(TEXTS))


class SourcesTest(unittest.TestCase):
    def test_python_files_parse_and_merges_are_decided(self):
        parsed = 0
        for path in sources():
            with open(path, encoding="utf-8") as file:
                text = file.read()
            self.assertIsNone(re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), f"{path}: a merge is not decided")
            if path.endswith(".py"):
                ast.parse(text, path)
                parsed += 1
        self.assertGreaterEqual(parsed, 50)


if __name__ == "__main__":
    unittest.main()
