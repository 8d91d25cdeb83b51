#!/usr/bin/env bash
# Honest ports at the widths of published models: whatever fails is a false alarm. Prints a table, a row per port, seed and component.
#   ci/false_alarms.sh                                    the example ports: float32, bfloat16 and TF32 products; 10 seeds
#   ci/false_alarms.sh --seeds 2 --components "mlp moe"   fewer
#   ci/false_alarms.sh --jobs 4 fast=/where/port.so       so many at a time, each on one thread; ports of your own: NAME=PORT
#   --build DIR [build, or build-ci]   --work DIR keeps the reports   --first S [1]   --cases N [2]   --scale full
# Needs the built command and the example ports beside it, and Python 3. A run takes some gigabytes of memory per job.
# Exit codes: 0 no false alarm, 1 one at least, or a run that judged nothing; 2 bad usage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

build=build seeds=10 first=1 cases=2 scale=kernel jobs=$(nproc 2>/dev/null || echo 2) work= components="gate mlp experts moe"
[ -x build/tools/moeref ] || build=build-ci
ports=()
while [ $# -gt 0 ]; do
  case $1 in
    --build | --seeds | --first | --cases | --scale | --jobs | --work | --components)
      [ $# -gt 1 ] || { echo "ci/false_alarms.sh: $1 wants a value" >&2; exit 2; }
      printf -v "${1#--}" '%s' "$2"; shift 2 ;;
    *=*) ports+=("$1"); shift ;;
    *) echo "ci/false_alarms.sh: unknown argument $1" >&2; exit 2 ;;
  esac
done
moeref=$build/tools/moeref
[ -x "$moeref" ] || { echo "ci/false_alarms.sh: no $moeref: build it, or name the folder with --build" >&2; exit 2; }
if [ ${#ports[@]} = 0 ]; then
  for arithmetic in float32 bfloat16 tf32; do
    library=$build/tools/example_ports/cpp/libexample_port_$arithmetic.so
    [ -e "$library" ] || { echo "ci/false_alarms.sh: no $library: build target example_port_$arithmetic" >&2; exit 2; }
    ports+=("$arithmetic=$library")
  done
fi
kept=${work:+yes}
work=${work:-$(mktemp -d)}
mkdir -p "$work"
trap '[ -n "$kept" ] || rm -rf "$work"' EXIT

# A run: its port, seed and component, then the report's name. What it says is kept beside the report.
one_run() {
  local port=${1#*=} seed=$2 component=$3 report=$4
  MOEREF_THREADS=1 "$moeref" check --port "$port" --scale "$scale" --cases "$cases" --seed "$seed" --component "$component" \
    --timeout 3600 --json "$report.json" >"$report.txt" 2>&1 || true
}
export -f one_run
export moeref scale cases
for seed in $(seq "$first" $((first + seeds - 1))); do
  for port in "${ports[@]}"; do
    for component in $components; do
      printf '%s\0' "$port" "$seed" "$component" "$work/${port%%=*}-$seed-$component"
    done
  done
done | xargs -0 -n 4 -P "$jobs" bash -c 'one_run "$@"' one_run

python3 - "$work" "$first" "$seeds" "$components" "${ports[@]%%=*}" <<'TABLE'
import json, os, sys

work, first, seeds, components, *ports = sys.argv[1:]
print("| port | seed | component | cases | judged | failed | worst r |\n|---|---|---|---|---|---|---|")
runs = bad = 0
for port in ports:
    for seed in range(int(first), int(first) + int(seeds)):
        for component in components.split():
            report, runs = os.path.join(work, f"{port}-{seed}-{component}"), runs + 1
            try:
                properties = json.load(open(report + ".json"))["properties"]
            except (OSError, ValueError):
                properties = []
            ran = [p for p in properties if p["passed"] or p["status"] not in ("PASS", "NOT_SUPPORTED")]
            failed = [p for p in ran if p["status"] != "PASS"]
            judged = sum(p.get("sampled", {}).get("judged", 0) + p.get("sampled", {}).get("copied", 0) for p in ran)
            worst = max((float(p.get("worst_ratio", 0)) for p in ran), default=0)
            cases = sum(p["passed"] for p in ran)
            print(f"| {port} | {seed} | {component} | {cases} | {judged:.2g} | {len(failed)} | {worst:.3f} |")
            bad += bool(failed) or cases == 0
            for p in failed:
                print(f"  {p['property']}: {p['status']}: {p.get('finding', '')}; {p.get('repeat', '')}")
            if not ran:
                print("  judged nothing: " + open(report + ".txt").read().strip().replace("\n", "; ")[-300:])
print(f"\n{runs} runs, {bad} with a false alarm or without a case")
sys.exit(bad > 0)
TABLE
