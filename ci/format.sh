#!/usr/bin/env bash
# Checks the format of all tracked C++ and CUDA files; --fix rewrites them. CLANG_FORMAT names another clang-format.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Another version formats differently: .clang-format was written for this one.
wanted=14
tool=${CLANG_FORMAT:-}
for candidate in clang-format-$wanted clang-format; do
  [ -n "$tool" ] || ! command -v $candidate >/dev/null || tool=$candidate
done
[ -n "$tool" ] || { echo "ci/format.sh: no clang-format here: apt-get install clang-format-$wanted" >&2; exit 2; }
version=$($tool --version | sed 's/.*version \([0-9]*\).*/\1/')
[ "$version" = $wanted ] || echo "ci/format.sh: $tool is version $version, want $wanted; its result may differ" >&2

# New files count too, unless git ignores them.
mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.cpp' '*.hpp' '*.h' '*.c' '*.cu' '*.cuh' |
  while read -r file; do [ ! -e "$file" ] || echo "$file"; done)
if [ "${1:-}" = --fix ]; then
  printf '%s\0' "${files[@]}" | xargs -0 -n 16 "$tool" -i
  exit
fi
if ! printf '%s\0' "${files[@]}" | xargs -0 -n 16 "$tool" --dry-run --Werror --ferror-limit=1; then
  echo "ci/format.sh: run 'ci/format.sh --fix'" >&2
  exit 1
fi
echo "${#files[@]} files are formatted"
