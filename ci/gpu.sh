#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA, runs the tests labelled gpu (ctest's own options are handed on), validates
# the CUDA implementation against all golden files (report in out/), and checks its memory accesses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh
command -v nvidia-smi >/dev/null && nvidia-smi -L || { echo "ci/gpu.sh: no NVIDIA GPU here" >&2; exit 2; }

cmake --preset cuda
cmake --build --preset cuda --parallel "$(nproc)"
status=0
NCCL_NVLS_ENABLE=0 ctest --preset cuda "$@" || status=1
mkdir -p out
build-cuda/tools/moeref validate --port cuda golden/cases golden/documented_system \
  --json out/cuda_report.json --junit out/cuda_report.xml || status=1
bash ci/cuda_sanitize.sh build-cuda || status=1
exit "$status"
