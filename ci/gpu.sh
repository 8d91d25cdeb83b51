#!/usr/bin/env bash
# On a machine with a GPU: builds with CUDA, runs the tests labelled gpu, and cuda_impl's memory checks where it has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh
command -v nvidia-smi >/dev/null && nvidia-smi -L || { echo "ci/gpu.sh: no NVIDIA GPU here" >&2; exit 2; }

cmake --preset cuda
cmake --build --preset cuda --parallel "$(nproc)"
ctest --preset cuda "$@"
if [ -x cuda_impl/compute_sanitizer.sh ]; then
  cuda_impl/compute_sanitizer.sh build-cuda
fi
