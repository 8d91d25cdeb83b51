#!/usr/bin/env bash
# The main job, from a fresh checkout: builds, writes golden files for layers of real models into out/, validates the CPU
# reference against the cases that the documented system computed, and leaves a report to look at.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash ci/setup.sh
. ci/env.sh

cmake --preset default
cmake --build --preset default --parallel "$(nproc 2>/dev/null || echo 2)" --target moeref
moeref=build/tools/moeref

mkdir -p out
for preset in mixtral_8x7b qwen3_30b deepseek_v3 gpt_oss_120b; do
  "$moeref" generate --preset "$preset" --out out/golden
done
"$moeref" validate --port cpu golden/documented_system --json out/report.json --junit out/report.xml --html out/report.html
echo "Golden files: out/golden. Report: out/report.html, out/report.json, out/report.xml."
