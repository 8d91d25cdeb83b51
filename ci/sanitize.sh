#!/usr/bin/env bash
# The unit and property tests under the address and undefined-behaviour sanitizers. ctest's own options are handed on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh

cmake --preset dev
cmake --build --preset dev --parallel "$(nproc 2>/dev/null || echo 2)"
ctest --preset dev "$@"
