#!/usr/bin/env bash
# README's two commands on fresh systems: for each release of Debian a root by debootstrap with git alone, a clone of this commit,
# ci/moeref.sh and ci/test.sh. Prints a table for ci/README.md. As root, with debootstrap.
#   ci/distributions.sh                      bookworm and trixie (Debian 12 and 13)
#   ci/distributions.sh --work DIR trixie    roots and logs below DIR, which are kept; a root that is there is used again
#   ci/distributions.sh --configure          only sets up and configures, as a quick trial
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=
configure=no
releases=()
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=$2; shift 2 ;;
    --configure) configure=yes; shift ;;
    -*) echo "ci/distributions.sh: unknown option $1" >&2; exit 2 ;;
    *) releases+=("$1"); shift ;;
  esac
done
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie)
me=ci/distributions.sh
. ci/roots.sh
take_work "$work"

# Sets `took`, in minutes and seconds, and `result`; the log is the release's.
timed() {
  local start=$SECONDS status=0
  echo "== $1" >>"$log"
  inside "cd /moeref && $1" >>"$log" 2>&1 || status=$?
  took=$(printf '%d:%02d' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60)))
  if [ $status = 0 ]; then result=passed; else result="failed ($status)"; failed=1; fi
}

version() { inside "$1" 2>/dev/null | head -n 1; }
package() { inside "dpkg-query -W -f='\${Version}' $1" 2>/dev/null | sed 's/^[0-9]*://; s/[-+].*//'; }

failed=0
table='| release | compiler | CMake | nlohmann-json | fmt | HDF5 | command | time | result |
|---|---|---|---|---|---|---|---|---|'
for release in "${releases[@]}"; do
  log=$work/$release.log
  : >"$log"
  take_root "$release" git,ca-certificates "$log"
  # A clone in which nothing lies that is not committed.
  rm -rf "$root/moeref"
  git clone --quiet --no-hardlinks . "$root/moeref"
  commands=(ci/moeref.sh ci/test.sh)
  if [ "$configure" = yes ]; then commands=("ci/setup.sh && cmake --preset ci"); fi
  mount_root
  for command in "${commands[@]}"; do
    timed "$command"
    table+="
| $(version 'sed -n "s/^PRETTY_NAME=\"\(.*\)\"/\1/p" /etc/os-release') | $(version 'c++ --version' | sed 's/^c++ (.*) /g++ /') | \
$(version 'cmake --version' | sed 's/.* //') | $(package nlohmann-json3-dev) | $(package libfmt-dev) | $(package libhdf5-dev) | \
\`$command\` | $took | $result |"
    echo "$release: $command: $result after $took"
  done
  release_roots
done
echo
echo "$(git rev-parse --short HEAD), $(nproc) cores"
echo "$table"
if [ $failed != 0 ]; then
  for release in "${releases[@]}"; do tail -n 20 "$work/$release.log" >&2; done
  exit 1
fi
