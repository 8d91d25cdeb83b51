"""`pytest --moeref my_kernels.py`: one test per port and property or golden case.

Ports run in a child process of each worker; one that crashes or hangs fails the test at hand, and is started again.
"""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("moeref")
    group.addoption("--moeref", action="store_true", help="check the ports (@moeref.port) of the given files")
    group.addoption("--moeref-scale", default="small", choices=["small", "kernel", "full"],
                    help="how large the drawn cases are")
    group.addoption("--moeref-seed", default=1, type=int, help="of the drawn cases; 1 by default")
    group.addoption("--moeref-cases", default=None, type=int, help="cases of each property")
    group.addoption("--moeref-timeout", default=60.0, type=float, help="seconds after which a call hangs")
    group.addoption("--moeref-no-goldens", action="store_true", help="properties alone")


def pytest_configure(config):
    config.addinivalue_line("markers", "moeref_property: a property of a port")
    config.addinivalue_line("markers", "moeref_golden: a recorded case")


def pytest_collect_file(file_path, parent):
    if not parent.config.getoption("--moeref") or file_path.suffix != ".py":
        return None
    if "moeref" not in file_path.read_text(encoding="utf-8", errors="replace"):
        return None
    return PortsFile.from_parent(parent, path=file_path)


class PortsFile(pytest.File):
    """A file with ports."""

    def collect(self):
        from .checking import items_of
        from .child import load
        from .ports import Port
        option = self.config.getoption
        for name, port in load(str(self.path)).items():
            if not isinstance(port, Port) or port.scope.get("__file__") != str(self.path):
                continue
            for item in items_of(port.component, option("--moeref-scale"), not option("--moeref-no-goldens")):
                yield PortItem.from_parent(self, name=f"{name}[{item.kind}/{item.name}]", port=port, item=item)


class Finding(Exception):
    """A failed item; its text is the result's."""


class PortItem(pytest.Item):
    """One property, or one golden case, of one port."""

    def __init__(self, *, port, item, **keywords):
        super().__init__(**keywords)
        self.port, self.item = port, item
        self.add_marker(f"moeref_{item.kind}")

    def runtest(self):
        from .checking import run_item
        option = self.config.getoption
        result = run_item(self._opened(), self.item, scale=option("--moeref-scale"), seed=option("--moeref-seed"),
                          cases=option("--moeref-cases"))
        if result.failed:
            raise Finding(str(result))
        if not result.ran:
            pytest.skip("; ".join(f"{count} x {reason}" for reason, count in result.reasons.items()) or result.status)

    def _opened(self):
        """The port, opened by the first of its items in this worker."""
        from .opened_port import OpenedPort
        opened = self.session.__dict__.setdefault("moeref_opened", {})
        if self.port not in opened:
            opened[self.port] = OpenedPort(self.port, timeout=self.config.getoption("--moeref-timeout"))
        return opened[self.port]

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, Finding):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        code = getattr(self.port.function, "__code__", None)
        return self.path, code.co_firstlineno - 1 if code else 0, self.name
