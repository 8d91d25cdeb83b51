#!/usr/bin/env bash
# The gate: sets up the machine, builds everything with warnings as errors and runs all tests but those on a GPU.
#   ci/test.sh              all of them
#   ci/test.sh -L unit      ctest's own options are handed on
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh

jobs=$(nproc 2>/dev/null || echo 2)
cmake --preset ci
cmake --build --preset ci --parallel "$jobs"
# Jobs of their own, which take minutes more: each header by itself (ci/headers.sh), and the mutants as ports of bfloat16
# alone (ctest --preset ci -R mutants.bfloat16).
ctest --preset ci --label-exclude gpu --exclude-regex "^(tree.headers|mutants.bfloat16)$" --parallel "$jobs" "$@"
