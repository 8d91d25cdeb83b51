"""Results files for a folder of golden files: `moeref validate --port results:DIR`."""

import os
import sys
import traceback

from .call import NotSupported, call_port, undeclared_convention
from .cases import BadCase, read_case, write_results


class Written:
    """What run_files did: names of the files written, and why the others were not."""

    def __init__(self):
        self.written, self.not_supported, self.failed = [], {}, {}

    @property
    def exit_code(self):
        return 1 if self.failed or not self.written else 0


def run_files(functions, golden_dir, out_dir, conventions=()):
    """Runs every golden file below `golden_dir` (or the one file) and writes OUT_DIR/<its name>.

    A case that the port does not support, or that has a convention which is not among `conventions`, has
    NAME.not_supported with the reason instead, one that it fails on has no file; both are told on stderr.
    Raises BadCase for a file that is no golden file, and where there is none.
    """
    out = Written()
    for path in _golden_files(golden_dir):
        name, target = os.path.basename(path), os.path.join(out_dir, os.path.basename(path))
        if os.path.exists(target) and os.path.samefile(path, target):
            raise BadCase(f"{target}: is the golden file itself: want another folder for the results")
        case = read_case(path)
        for earlier in (target, _reason_file(target)):  # an earlier run's results are not this one's
            if os.path.exists(earlier):
                os.unlink(earlier)
        try:
            if reason := undeclared_convention(case, conventions):
                raise NotSupported(reason)
            write_results(target, call_port(functions, case))
            out.written.append(name)
            continue
        except NotSupported as error:
            out.not_supported[name] = str(error)
            os.makedirs(out_dir, exist_ok=True)
            with open(_reason_file(target), "w", encoding="utf-8") as file:
                file.write(f"{error}\n")
        except (Exception, SystemExit) as error:  # of the port's code
            traceback.print_exc()
            out.failed[name] = str(error)
    for reasons, what in ((out.not_supported, "not supported"), (out.failed, "failed")):
        for name, reason in reasons.items():
            print(f"{what}: {name}: {reason}", file=sys.stderr)
    print(f"{len(out.written)} results files in {out_dir}, {len(out.not_supported)} cases not supported, "
          f"{len(out.failed)} failed", file=sys.stderr)
    return out


def _reason_file(target):
    return os.path.splitext(target)[0] + ".not_supported"


def _golden_files(golden_dir):
    if os.path.isfile(golden_dir):
        return [golden_dir]
    paths = [os.path.join(folder, name)
             for folder, _, names in os.walk(golden_dir) for name in names if name.endswith(".h5")]
    if not paths:
        raise BadCase(f"{golden_dir}: holds no golden files (*.h5)")
    return sorted(paths)
