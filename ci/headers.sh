#!/usr/bin/env bash
# Every file includes what it uses: compiles each header by itself, and with --sources each source, without precompiled headers.
#   ci/headers.sh --build build-ci      the headers, with the include paths of a configured build
#   CXX=clang++ ci/headers.sh --sources all files, configured for that compiler in build-headers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ci/env.sh

build=
sources=no
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --sources) sources=yes; shift ;;
    *) echo "ci/headers.sh: unknown argument $1: want --build FOLDER or --sources" >&2; exit 2 ;;
  esac
done
compiler=${CXX:-c++}
if [ -z "$build" ]; then
  build=build-headers/$(basename "$compiler")
  cmake -S . -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DMOEREF_CUDA=OFF -DMOEREF_CUDA_EMULATION=OFF \
    -DMOEREF_QUICK_BUILD=OFF >/dev/null
fi
commands=$build/compile_commands.json
[ -e "$commands" ] || { echo "ci/headers.sh: $commands is not there: configure $build first" >&2; exit 2; }

# Where all that the build uses is found; cuda_impl reads the emulated device's headers in place of a toolkit's.
mapfile -t paths < <(grep -oE -- '(-I|-isystem )[^ "]+' "$commands" | sort -u | tr ' ' '\n')
paths+=(-I. -Icuda_impl/include -Icuda_impl/emulation/include -Itools/port_abi/include -Itools/example_ports/cpp)
# The Python extension's headers need nanobind, which only that build has.
left_out=()
if extension=$(python3 -c 'import nanobind, sysconfig
print("-I" + nanobind.include_dir(), "-I" + sysconfig.get_paths()["include"])' 2>/dev/null); then
  read -ra extension <<<"$extension"
  paths+=("${extension[@]}")
else
  left_out=(':!python/extension')
  echo "ci/headers.sh: nanobind is not installed: python/extension is left out"
fi
warnings=(-Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable)

alone() {
  "$compiler" -std=c++20 -fsyntax-only "${warnings[@]}" "${paths[@]}" -x c++ -include "$1" /dev/null ||
    { echo "ci/headers.sh: $1 does not compile by itself" >&2; return 1; }
}
source_alone() {
  # The build's own command, up to its output.
  local command
  command=$(grep -B1 "\"file\": \"$PWD/$1\"" "$commands" | sed -n '1s/^ *"command": "\(.*\) -o [^ ]* -c .*/\1/p' | sed 's/\\"/"/g; s/\\\\/\\/g')
  eval "$command -fsyntax-only '$1'" || { echo "ci/headers.sh: $1 does not compile" >&2; return 1; }
}

# At most so many at once; a failure of any is the script's.
jobs=${JOBS:-$(nproc 2>/dev/null || echo 2)}
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
checked=0
check() {
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  { "$1" "$2" || echo "$2" >>"$failed"; } &
  checked=$((checked + 1))
}

while read -r header; do
  check alone "$header"
done < <(git ls-files --cached --others --exclude-standard -- '*.hpp' '*.h' "${left_out[@]}")
if [ "$sources" = yes ]; then
  while read -r source; do
    check source_alone "$source"
  done < <(sed -n "s|^ *\"file\": \"$PWD/\(.*\.cpp\)\",*\$|\1|p" "$commands" | grep -v '^build' | sort -u)
fi
wait
if [ -s "$failed" ]; then
  echo "ci/headers.sh: $(wc -l <"$failed") of $checked files do not compile by themselves" >&2
  exit 1
fi
echo "$checked files compile by themselves"
