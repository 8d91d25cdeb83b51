"""Runs the tests of this folder; exit code 77 (skipped, to ctest) where h5py or NumPy is missing."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))

try:
    import h5py  # noqa: F401
    import numpy  # noqa: F401
except ImportError as error:
    print(f"SKIPPED: {error}; install python3-h5py")
    sys.exit(77)

sys.path[:0] = [HERE, os.path.dirname(HERE)]
pattern = f"test_{sys.argv[1]}.py" if len(sys.argv) > 1 else "test_*.py"
result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.discover(HERE, pattern))
if result.testsRun == 0:
    print(f"no tests match {pattern}", file=sys.stderr)
    sys.exit(1)
if result.wasSuccessful() and len(result.skipped) == result.testsRun:
    print(f"SKIPPED: {result.skipped[0][1]}")
    sys.exit(77)
sys.exit(0 if result.wasSuccessful() else 1)
