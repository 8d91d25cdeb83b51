#!/usr/bin/env bash
# clang-tidy over every C++ file that the ci preset compiles; .clang-tidy lists the checks.
#   ci/tidy.sh              all of them
#   ci/tidy.sh golden/      those whose path begins so
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ci/env.sh
command -v clang-tidy >/dev/null || { echo "ci/tidy.sh: no clang-tidy here: apt-get install clang-tidy" >&2; exit 2; }

cmake --preset ci >/dev/null
# Sources that the build writes must exist before they are read.
cmake --build --preset ci --parallel "$(nproc)" >/dev/null
root=$PWD
mapfile -t files < <(sed -n 's/^ *"file": "\(.*\)",*$/\1/p' build-ci/compile_commands.json | sort -u |
  grep -F "$root/" | grep -vF "$root/build" | grep -F "$root/${1:-}")
[ ${#files[@]} -gt 0 ] || { echo "ci/tidy.sh: no compiled file begins with '${1:-}'" >&2; exit 2; }
# The flags are g++'s, of which clang does not know all.
if ! printf '%s\0' "${files[@]}" |
    xargs -0 -n 1 -P "$(nproc)" clang-tidy -p build-ci --quiet --extra-arg=-Wno-unknown-warning-option --warnings-as-errors='*' 2> >(grep -v 'warnings generated' >&2); then
  echo "ci/tidy.sh: findings above" >&2
  exit 1
fi
echo "${#files[@]} files are clean"
