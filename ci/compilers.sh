#!/usr/bin/env bash
# The unit tests by every compiler of the list that is here, warnings as errors. With --install, as root, those that the
# distribution's packages offer are installed first.
#   ci/compilers.sh                    g++ 11 to 14, clang 14 to 19
#   ci/compilers.sh g++-13 clang++-19  these; one that is not here is a failure
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh

install=no
if [ "${1:-}" = --install ]; then install=yes; shift; fi
optional=no
if [ $# = 0 ]; then
  optional=yes
  set -- g++-11 g++-12 g++-13 g++-14 clang++-14 clang++-15 clang++-16 clang++-17 clang++-18 clang++-19
fi

jobs=$(nproc 2>/dev/null || echo 2)
failed=0
ran=0
for compiler in "$@"; do
  if [ $install = yes ] && ! command -v "$compiler" >/dev/null; then
    # The package of clang++-16 is clang-16.
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${compiler/clang++/clang}" >/dev/null 2>&1 </dev/null ||
      true
  fi
  if ! command -v "$compiler" >/dev/null; then
    echo "ci/compilers.sh: there is no $compiler here"
    [ $optional = yes ] || failed=1
    continue
  fi
  build=build-compilers/$compiler
  mkdir -p "$build"
  status=passed
  { cmake -S . -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Release -DMOEREF_CUDA=OFF \
      -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCMAKE_COMPILE_WARNING_AS_ERROR=ON &&
    cmake --build "$build" --parallel "$jobs" &&
    ctest --test-dir "$build" --label-regex unit --no-tests=error --output-on-failure --parallel "$jobs"; } \
    >"$build/log.txt" 2>&1 || { status=failed; failed=1; tail -n 40 "$build/log.txt" >&2; }
  ran=$((ran + 1))
  echo "$compiler: $status ($("$compiler" --version | head -n 1))"
done
[ $ran -gt 0 ] || { echo "ci/compilers.sh: none of $* is here" >&2; exit 2; }
exit $failed
