#!/usr/bin/env bash
# cuda_impl for every architecture that it is meant for, warnings as errors, and that each object holds each of them: wgmma
# kernels are for sm_90a alone. Needs no GPU.
#   ci/architectures.sh [BUILD_FOLDER]        build-architectures where none is named
# CUOBJDUMP names the toolkit's program where it is not on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build-architectures}
wanted="80 86 89 90a 100 120"
dump=${CUOBJDUMP:-cuobjdump}
command -v "$dump" >/dev/null || { echo "ci/architectures.sh: no $dump on the PATH: install the CUDA toolkit's, or set CUOBJDUMP" >&2; exit 2; }

architectures=
for a in $wanted; do architectures+="$a-real;"; done
start=$SECONDS
cmake -S cuda_impl -B "$build" -G Ninja -DBUILD_TESTING=OFF "-DCMAKE_CUDA_ARCHITECTURES=${architectures%;*};120-virtual" \
  -DCMAKE_CUDA_FLAGS=-Werror=all-warnings >/dev/null
cmake --build "$build" --parallel "$(nproc)"
took=$((SECONDS - start))

library=$build/libmoeref_cuda.a
objects=0 wrong=0
for object in $(ar t "$library" | grep '\.cu\.o$'); do
  expected=$(printf 'sm_%s\n' $wanted)
  ptx=sm_120
  # Which objects are of the wgmma kernels the build itself says.
  if find "$build/CMakeFiles/moeref_cuda_sm90.dir" -name "$object" | grep -q .; then
    expected=sm_90a
    ptx=
  fi
  (cd "$build" && ar x libmoeref_cuda.a "$object")
  found=$("$dump" --list-elf "$build/$object" | grep -o 'sm_[0-9]*a\?' | sort -u)
  found_ptx=$({ "$dump" --list-ptx "$build/$object" 2>/dev/null || true; } | grep -o 'sm_[0-9]*a\?' | sort -u)
  rm "$build/$object"
  objects=$((objects + 1))
  if [ "$found" != "$(sort <<<"$expected")" ] || [ "$found_ptx" != "$ptx" ]; then
    echo "$object holds" $found "and PTX of" ${found_ptx:-none}: wanted $expected, PTX of ${ptx:-none} >&2
    wrong=$((wrong + 1))
  fi
done
[ $objects -gt 0 ] || { echo "ci/architectures.sh: no object with kernels in $library" >&2; exit 1; }
echo "$objects objects with kernels, $wrong wrong; $(du -h "$library" | cut -f1) for" $wanted "in $took s on $(nproc) cores"
[ $wrong = 0 ]
