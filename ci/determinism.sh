#!/usr/bin/env bash
# Builds the CPU reference with other compilers and optimization levels, and compares the bits of its results.
#   ci/determinism.sh                                   g++ and clang++, -O0 and -O3, with one another
#   ci/determinism.sh --against PROGRAM COMPILER LEVEL...   one compiler with a determinism_hash that is built already
#   --work DIR keeps the builds there (build-determinism)
# Exit codes: 0 the same bits, 1 other bits or a build that failed, 77 the compiler is not here (ctest shows it as skipped).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/ci/env.sh"

work=$root/build-determinism
against=
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=$2; shift 2 ;;
    --against) against=$2; shift 2 ;;
    --) shift; break ;;
    -*) echo "ci/determinism.sh: unknown option $1" >&2; exit 2 ;;
    *) break ;;
  esac
done

# Prints the hash of the reference as this compiler makes it.
hash_by() {
  local compiler=$1 level=$2 build=$work/$1$2 log
  mkdir -p "$build"
  log=$build/log.txt
  if ! { cmake -S "$root" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=None \
      -DCMAKE_CXX_FLAGS="$level" -DMOEREF_CUDA=OFF &&
      cmake --build "$build" --target determinism_hash --parallel "$(nproc 2>/dev/null || echo 2)"; } >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "ci/determinism.sh: $compiler $level did not build" >&2
    return 1
  fi
  "$build/reference_cpu/determinism_hash"
}

expected=
failed=0
compare() {
  local what=$1 hash=$2
  echo "$hash  $what"
  if [ -z "$expected" ]; then
    expected=$hash
  elif [ "$hash" != "$expected" ]; then
    failed=1
  fi
}

if [ -n "$against" ]; then
  [ $# -ge 2 ] || { echo "ci/determinism.sh: --against PROGRAM wants a compiler and its levels" >&2; exit 2; }
  compilers=$1
  shift
  levels=$*
  command -v "$compilers" >/dev/null || { echo "ci/determinism.sh: skipped, there is no $compilers here"; exit 77; }
  hash=$("$against")
  compare "this build" "$hash"
else
  compilers='g++ clang++'
  levels='-O0 -O3'
fi

for compiler in $compilers; do
  command -v "$compiler" >/dev/null || { echo "ci/determinism.sh: skipped, there is no $compiler here"; continue; }
  for level in $levels; do
    hash=$(hash_by "$compiler" "$level")
    compare "$compiler $level" "$hash"
  done
done
[ -n "$expected" ] || exit 77
if [ $failed -ne 0 ]; then
  echo "ci/determinism.sh: the bits differ; determinism_hash --verbose of two builds says in which calls" >&2
  exit 1
fi
