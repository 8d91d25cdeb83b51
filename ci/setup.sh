#!/usr/bin/env bash
# Installs what the build needs and the machine lacks (Debian, Ubuntu and their kin; asks for nothing when all is there).
# Exit codes: 0 all is there, 2 something is missing and could not be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Runs quietly when there is nothing to do; ci/env.sh says where tools installed by this script lie.
. ci/env.sh

cmake_is_new_enough() {
  local found
  found=$(cmake --version 2>/dev/null | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
  [ -n "$found" ] && [ "$(printf '3.25\n%s\n' "$found" | sort -V | head -n1)" = 3.25 ]
}

cxx_is_new_enough() {
  echo '#include <concepts>
        #include <span>
        #include <stop_token>
        int main() { static_assert(std::integral<int>); std::span<int> none; return static_cast<int>(none.size()); }' |
    "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null
}

has_header() { echo "#include <$1>" | "${CXX:-c++}" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null; }
# The folder of Debian's HDF5 is not on the compiler's path; CMake knows it.
has_hdf5() { has_header hdf5.h || ls /usr/include/hdf5/serial/hdf5.h >/dev/null 2>&1; }

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
has_h5py() { python3 -c 'import h5py' || /usr/bin/python3 -c 'import h5py'; }

# probe | package | what it is | needed: without it nothing builds; wanted: else CMake downloads it; tested: else the
# tests that need it are skipped
needs='
cmake_is_new_enough|cmake|CMake 3.25 or newer|needed
command -v ninja|ninja-build|Ninja|needed
cxx_is_new_enough|g++|a C++20 compiler|needed
command -v git|git|git|needed
has_hdf5|libhdf5-dev|HDF5, the C library|needed
has_header nlohmann/json.hpp|nlohmann-json3-dev|nlohmann-json|wanted
has_header fmt/format.h|libfmt-dev|fmt|wanted
has_header CLI/CLI.hpp|libcli11-dev|CLI11|wanted
has_header dlpack/dlpack.h|libdlpack-dev|DLPack|wanted
has_header gtest/gtest.h|libgtest-dev|GoogleTest|wanted
has_header rapidcheck.h|librapidcheck-dev|RapidCheck|wanted
has_h5py|python3-h5py|h5py, for ports in Python|tested
has_browser|chromium|a browser, for the HTML report|tested'

# Prints the lines of `needs` whose probe fails.
missing() {
  local probe package what kind
  while IFS='|' read -r probe package what kind; do
    [ -n "$probe" ] || continue
    $probe >/dev/null 2>&1 || echo "$package|$what|$kind"
  done <<<"$needs"
}

lacking=$(missing)
[ -n "$lacking" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root='sudo -n'; else as_root=no; fi
fi

if command -v apt-get >/dev/null && [ "$as_root" != no ]; then
  echo "ci/setup.sh: installing $(cut -d'|' -f1 <<<"$lacking" | tr '\n' ' ')"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  $as_root apt-get update >"$log" 2>&1 </dev/null ||
    { tail -n 3 "$log" >&2; echo "ci/setup.sh: apt-get update failed; trying with the lists as they are" >&2; }
  while IFS='|' read -r package what kind; do
    # One by one, so that a package that this release lacks does not keep the others out.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package" >"$log" 2>&1 </dev/null ||
      { tail -n 3 "$log" >&2; echo "ci/setup.sh: apt-get could not install $package" >&2; }
  done <<<"$lacking"
  lacking=$(missing)
fi

# Releases whose CMake is too old (Ubuntu 22.04): a newer one from PyPI, kept in this folder.
if grep -q '^cmake|' <<<"$lacking" && python3 -m venv --help >/dev/null 2>&1; then
  echo "ci/setup.sh: installing a newer CMake into .deps/venv"
  if python3 -m venv .deps/venv && .deps/venv/bin/pip install --quiet 'cmake>=3.25,<4'; then
    . ci/env.sh
    lacking=$(missing)
  fi
fi

failed=0
while IFS='|' read -r package what kind; do
  [ -n "$package" ] || continue
  if [ "$kind" = needed ]; then
    echo "ci/setup.sh: missing $what: install it with 'apt-get install $package' as root" >&2
    failed=2
  elif [ "$kind" = tested ]; then
    echo "ci/setup.sh: no $what; its tests are skipped (or: apt-get install $package)" >&2
  else
    echo "ci/setup.sh: no $what here; CMake will download it (or: apt-get install $package)" >&2
  fi
done <<<"$lacking"
[ $failed = 0 ] || echo "ci/setup.sh: all at once: sudo apt-get install $(cut -d'|' -f1 <<<"$lacking" | tr '\n' ' ')" >&2
exit $failed
