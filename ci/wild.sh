#!/usr/bin/env bash
# Runs public implementations of MoE layers against the reference, and makes the page of findings from what came out.
#   ci/wild.sh WHEEL [NAME ...]    all, or these; one virtual environment each below build-wild/, made once. WHEEL is moeref's, or a
#                                  folder of them, one for each version of Python that is used
#   ci/wild.sh --page              the page alone, from the stored reports
# PYTHON names the interpreter [python3]. Needs PyPI; packages without wheels for a CPU are installed without what they
# depend on, and of that what their torch-native code imports. Some 25 GB, which uv keeps once where it can.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wild=tools/example_ports/wild
page() { python3 "$wild/page.py" "$wild/reports" > "$wild/FINDINGS.md"; }
if [ "${1:-}" = --page ]; then
  page
  exit
fi

# name | what is installed | what is installed without its dependencies | the Python it needs, where that is not PYTHON
packages='
automodel|torch==2.15.0 transformers==5.24.0|nemo-automodel==0.7.0
deepspeed|torch==2.15.0 deepspeed==0.19.8 setuptools|
diffusers|torch==2.15.0 transformers==5.24.0 diffusers==0.42.1|
litgpt|torch==2.15.0 litgpt==0.5.13|
megatron|torch==2.15.0 megatron-core==0.16.1|
megatron_router|torch==2.15.0 megatron-core==0.19.2||python3.12
mistral|torch==2.15.0 safetensors simple-parsing|mistral-inference==1.6.0
mlx|mlx[cpu]==0.32.4 mlx-lm==0.32.2|
onnxruntime|onnxruntime==1.32.0 onnx|
torchtitan|torch==2.15.0 spmd-types tyro|torchtitan==0.3.0
transformers|torch==2.15.0 transformers==5.24.0|
tunix|jax==0.10.2 flax==0.12.8 google-metrax jaxtyping tqdm huggingface_hub sentencepiece pillow perfetto pandas safetensors|google-tunix==0.1.7'

wheel=$(realpath "${1:?the wheel of moeref, or a folder of wheels: ci/wild.sh WHEEL [NAME ...]}")
shift
wheel_for() {  # moeref's wheel for an interpreter
  find "$wheel" -name "moeref-*-$("$1" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')-*.whl" | sort | tail -1
}
mkdir -p build-wild
[ -x build-wild/uv/bin/uv ] || { python3 -m venv build-wild/uv && build-wild/uv/bin/pip install -q uv; }
uv=build-wild/uv/bin/uv
# Eager mode; a program's threads would wait for each other where others work, too.
export TORCHDYNAMO_DISABLE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=$PWD/tools/example_ports/python
status=0
while IFS='|' read -r name with without python; do
  [ -n "$name" ] || continue
  case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
  venv=build-wild/$name
  if [ ! -x "$venv/bin/python" ]; then
    "$uv" venv -q -p "${python:-${PYTHON:-python3}}" "$venv"
    # shellcheck disable=SC2086  # lists of requirements
    "$uv" pip install -q -p "$venv/bin/python" ml_dtypes $with
    # shellcheck disable=SC2086
    [ -z "$without" ] || "$uv" pip install -q -p "$venv/bin/python" --no-deps $without
  fi
  ours=$(wheel_for "$venv/bin/python")
  [ -n "$ours" ] || { echo "ci/wild.sh: $name was not recorded: $wheel is not of its Python" >&2; status=1; continue; }
  "$uv" pip install -q -p "$venv/bin/python" --reinstall-package moeref "$ours"
  echo "$name"
  "$venv/bin/python" "$wild/record.py" "$wild/${name}_ports.py" "$wild/reports/$name.json" "$(date +%F)" ||
    { echo "ci/wild.sh: $name was not recorded" >&2; status=1; }
  [ "$name" != transformers ] || "$venv/bin/python" "$wild/router_classes.py" "$wild/router_classes.json" > "$wild/ROUTER_CLASSES.md" || status=1
done <<<"$packages"
page
exit "$status"
