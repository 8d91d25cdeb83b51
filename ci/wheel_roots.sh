#!/usr/bin/env bash
# The wheel in empty systems: for each release of Debian a root by debootstrap with Python alone, `pip install` of the wheel that
# fits its Python, README's Python example, and pytest with xdist over ports in PyTorch and JAX. Prints a table for ci/README.md.
# As root, with debootstrap; needs PyPI for PyTorch and JAX, some 6 GB for each root.
#   ci/wheel_roots.sh out/moeref-*.whl           Debian 12 (Python 3.11) and 13 (Python 3.13); `ci/wheel.sh --manylinux` makes wheels
#   ci/wheel_roots.sh --work DIR WHEEL... trixie roots and logs below DIR, which are kept; a root that is there is used again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ci/env.sh

work=
wheels=()
releases=()
while [ $# -gt 0 ]; do
  case $1 in
    --work) work=$2; shift 2 ;;
    -*) echo "ci/wheel_roots.sh: unknown option $1" >&2; exit 2 ;;
    *.whl) wheels+=("$(realpath "$1")"); shift ;;
    *) releases+=("$1"); shift ;;
  esac
done
[ ${#wheels[@]} -gt 0 ] || { echo "ci/wheel_roots.sh: which wheels? ci/wheel.sh --manylinux makes one" >&2; exit 2; }
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie)
me=ci/wheel_roots.sh
. ci/roots.sh
take_work "$work"

# Seconds that a line of bash takes in the root, in `took`; its output goes to the log.
timed() {
  local began
  began=$(date +%s.%N)
  echo "== $1" >>"$log"
  inside "cd /try && $1" >>"$log" 2>&1 || { tail -n 20 "$log" >&2; echo "ci/wheel_roots.sh: $release: failed: $1" >&2; exit 1; }
  took=$(awk -v began="$began" -v ended="$(date +%s.%N)" 'BEGIN { printf "%.1f", ended - began }')
}

last_line() { tail -n 1 "$log" | sed 's/^=* *//; s/ *=*$//'; }

table='| release | Python | wheel | `pip install`, s | README'"'"'s example, s | ports under pytest -n 2 | JAX under pytest -n 2 |
|---|---|---|---|---|---|---|'
for release in "${releases[@]}"; do
  log=$work/$release.log
  : >"$log"
  take_root "$release" python3,python3-venv,ca-certificates "$log"
  rm -rf "$root/try"
  mkdir -p "$root/try"
  cp "${wheels[@]}" "$root/try"
  readme_example >"$root/try/my_gate.py"
  cp python/tests/package/{gates,test_jax,test_in_process}.py "$root/try"
  # A proxy's certificate, where pip needs one.
  if [ -n "${PIP_CERT:-}" ]; then
    cp "$PIP_CERT" "$root/try/certificates.pem"
    passed=(PIP_CERT=/try/certificates.pem)
  fi
  mount_root
  timed "python3 -m venv venv"
  installed=0
  for wheel in "${wheels[@]}"; do
    wheel=$(basename "$wheel")
    # pip says which wheel is not one for this Python.
    inside "cd /try && venv/bin/pip install -q --no-deps --dry-run ./$wheel" >>"$log" 2>&1 || continue
    timed "venv/bin/pip install -q ./$wheel"
    installed=$took
    break
  done
  [ "$installed" != 0 ] || { echo "ci/wheel_roots.sh: $release: none of the wheels fits its Python" >&2; exit 1; }
  timed "venv/bin/moeref --version && venv/bin/pip install -q torch jax pytest pytest-xdist ml_dtypes"
  timed "venv/bin/python my_gate.py"
  example=$took
  timed "venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --moeref my_gate.py --moeref-scale kernel --moeref-seed 6"
  ports=$(last_line)
  timed "venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --moeref test_jax.py --moeref-cases 20"
  jax=$(last_line)
  table+="
| $(inside '. /etc/os-release; echo "$PRETTY_NAME"') | $(inside 'python3 --version' | sed 's/Python //') | \
$(sed 's/.*-\(cp[^-]*-[^-]*\)-manylinux.*/\1/' <<<"$wheel") | $installed | $example | $ports | $jax |"
  echo "$release: README's example took $example s"
  release_roots
done
echo
echo "$(git rev-parse --short HEAD), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"
echo "$table"
