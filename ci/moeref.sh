#!/usr/bin/env bash
# The main job, from a fresh checkout: builds the command, writes golden files for layers of real models into out/golden,
# validates the CPU reference against the cases that the documented system computed, and leaves the report in out/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh

cmake --preset default
cmake --build --preset default --parallel "$(nproc 2>/dev/null || echo 2)" --target moeref
moeref=build/tools/moeref

# Layers of published models: reduced in width, with the routing of the real ones.
for preset in mixtral_8x7b qwen3_30b deepseek_v3 gpt_oss_120b; do
  "$moeref" generate --preset "$preset" --out "out/golden/$preset"
done
# Exit code 1 means findings, and the report tells them; anything above is no verdict.
status=0
"$moeref" validate --port cpu golden/documented_system --html out/report.html --json out/report.json \
  --junit out/report.xml || status=$?
if [ "$status" -le 1 ]; then
  echo "The command: $moeref. Golden files: out/golden. The report: out/report.html; for programs out/report.json, .xml."
fi
exit "$status"
