"""The command moeref of this package."""

import os
import sys


def command_path():
    """The program that was installed with this package. Raises FileNotFoundError."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "moeref")
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"{path} is not there: was the package installed as a wheel?")
    return path


def main():
    """The script `moeref`: the program takes its place."""
    path = command_path()
    os.execv(path, [path, *sys.argv[1:]])
