#!/usr/bin/env bash
# cuda_impl for every architecture that it is meant for, warnings as errors, and that each object holds each of them: wgmma
# kernels are for sm_90a alone. Needs no GPU.
#   ci/architectures.sh [BUILD_FOLDER]        build-architectures where none is named
# CUOBJDUMP names the toolkit's program where it is not on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build-architectures}
dump=${CUOBJDUMP:-cuobjdump}
command -v "$dump" >/dev/null || { echo "ci/architectures.sh: no $dump on the PATH: install the CUDA toolkit's, or set CUOBJDUMP" >&2; exit 2; }

start=$SECONDS
# As on a machine without a GPU (cuda_impl/architectures.cmake), which the build then names: 80-real, 120 with PTX, ...
architectures=$(cmake -S cuda_impl -B "$build" -G Ninja -DBUILD_TESTING=OFF -DMOEREF_NVIDIA_SMI= \
  -DCMAKE_CUDA_FLAGS=-Werror=all-warnings | sed -n 's/^-- cuda_impl for architectures //p')
[ -n "$architectures" ] || { echo "ci/architectures.sh: CMake names no architectures" >&2; exit 1; }
wanted= wanted_ptx=
for a in $architectures; do
  [ "${a%-virtual}" != "$a" ] || wanted+="sm_${a%-real} "
  [ "${a%-real}" != "$a" ] || wanted_ptx+="sm_${a%-virtual} "
done
cmake --build "$build" --parallel "$(nproc)"
took=$((SECONDS - start))

library=$build/libmoeref_cuda.a
objects=0 wrong=0
sorted() { tr ' ' '\n' | grep . | sort -u | paste -sd ' '; }
for object in $(ar t "$library" | grep '\.cu\.o$'); do
  expected=$wanted expected_ptx=$wanted_ptx
  # The wgmma kernels' objects, by the folder of the build that they come from.
  if find "$build/CMakeFiles/moeref_cuda_sm90.dir" -name "$object" | grep -q .; then
    expected=sm_90a expected_ptx=
  fi
  (cd "$build" && ar x libmoeref_cuda.a "$object")
  found=$({ "$dump" --list-elf "$build/$object" || true; } | grep -o 'sm_[0-9]*a\?' | sorted || true)
  found_ptx=$({ "$dump" --list-ptx "$build/$object" 2>/dev/null || true; } | grep -o 'sm_[0-9]*a\?' | sorted || true)
  rm "$build/$object"
  objects=$((objects + 1))
  if [ "$found" != "$(sorted <<<"$expected")" ] || [ "$found_ptx" != "$(sorted <<<"$expected_ptx" || true)" ]; then
    echo "$object holds ${found:-nothing}, PTX of ${found_ptx:-none}: wanted $expected, PTX of ${expected_ptx:-none}" >&2
    wrong=$((wrong + 1))
  fi
done
[ $objects -gt 0 ] || { echo "ci/architectures.sh: no object with kernels in $library" >&2; exit 1; }
echo "$objects objects with kernels, $wrong wrong; $(du -h "$library" | cut -f1) for $architectures in $took s on $(nproc) cores"
[ $wrong = 0 ]
