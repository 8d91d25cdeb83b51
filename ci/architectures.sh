#!/usr/bin/env bash
# cuda_impl for every architecture that it is meant for, warnings as errors, and that each object holds an image for each of them
# with the kernels that it is there for: wgmma kernels are for sm_90a alone. Needs no GPU.
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
# What kernels' names in an object must have, in each of its images: types, and in sm90/ tiles that warpgroups share and by turns.
#   part of the object's path | regular expressions, one a word
holds='
grouped_gemm/few_rows/bfloat16|few_rows_product.*__nv_bfloat16
grouped_gemm/few_rows/float16|few_rows_product.*6__half
grouped_gemm/few_rows/float_codes|few_rows_product
grouped_gemm/few_rows/group_codes|few_rows_product
grouped_gemm/portable/bfloat16|token_product.*__nv_bfloat16 weight_gradient.*__nv_bfloat16
grouped_gemm/portable/float16|token_product.*6__half weight_gradient.*6__half
grouped_gemm/portable/float32|token_product weight_gradient
moeref_cuda_sm90.dir/sm90/activation_|token_product.*SharedLayoutILi1E token_product.*SharedLayoutILi2E
moeref_cuda_sm90.dir/grouped_gemm/planes/float32|token_product.*PlanesTile weight_gradient.*PlanesTile
moeref_cuda_sm90.dir/grouped_gemm/sm90/products|token_product.*SharedLayoutILi1E token_product.*SharedLayoutILi2E weight_gradient
gate/tensor_core_product|__nv_bfloat16 6__half
permutation/unpermute|__nv_bfloat16 6__half
expert_parallel/combine|__nv_bfloat16 6__half
quantization/dequantize|__nv_bfloat16 6__half
parallel/copy_rows|copy_used'

objects=0 wrong=0
complain() { echo "$1" >&2; wrong=$((wrong + 1)); }
sorted() { tr ' ' '\n' | grep . | sort -u | paste -sd ' '; }
# By path: in the archive objects of several folders have one name.
while read -r object; do
  path=${object#"$build"/CMakeFiles/}
  expected=$wanted expected_ptx=$wanted_ptx
  case $path in moeref_cuda_sm90.dir/*) expected=sm_90a expected_ptx= ;; esac
  found=$({ "$dump" --list-elf "$object" || true; } | grep -o 'sm_[0-9]*[af]\?' | sorted || true)
  found_ptx=$({ "$dump" --list-ptx "$object" 2>/dev/null || true; } | grep -o 'sm_[0-9]*[af]\?' | sorted || true)
  objects=$((objects + 1))
  if [ "$found" != "$(sorted <<<"$expected")" ] || [ "$found_ptx" != "$(sorted <<<"$expected_ptx" || true)" ]; then
    complain "$path holds ${found:-nothing}, PTX of ${found_ptx:-none}: wanted $expected, PTX of ${expected_ptx:-none}"
  fi
  # "sm_80 _Z..." for each kernel of each image.
  kernels=$({ "$dump" --dump-elf-symbols "$object" || true; } | awk '/^arch = / { arch = $3 } /ENTRY/ { print arch, $NF }')
  for image in $found; do grep -c "^$image " <<<"$kernels" || true; done | sort -u | wc -l | grep -q '^1$' ||
    complain "$path: not all images have as many kernels"
  while IFS='|' read -r part names; do
    [ -n "$part" ] && [[ $path == *$part* ]] || continue
    seen+=" $part "
    for name in $names; do
      for image in $found; do
        grep -q "^$image .*$name" <<<"$kernels" || complain "$path: no kernel like $name for $image"
      done
    done
  done <<<"$holds"
done < <(find "$build"/CMakeFiles/moeref_cuda.dir "$build"/CMakeFiles/moeref_cuda_sm90.dir -name '*.cu.o' | sort)
[ $objects -gt 0 ] || { echo "ci/architectures.sh: no object with kernels in $build" >&2; exit 1; }
[ $objects = "$(ar t "$library" | grep -c '\.cu\.o$')" ] || complain "$library has other objects than $build: remove the folder"
while IFS='|' read -r part names; do
  [ -z "$part" ] || [[ ${seen:-} == *" $part "* ]] || complain "no object $part: the list in ci/architectures.sh is not that of the sources"
done <<<"$holds"
echo "$objects objects with kernels, $wrong wrong; $(du -h "$library" | cut -f1) for $architectures in $took s on $(nproc) cores"
[ $wrong = 0 ]
