#!/usr/bin/env bash
# A reduced set of the CUDA tests under each tool of compute-sanitizer:
#   ci/cuda_sanitize.sh BUILD_FOLDER [TOOL]...      tools: memcheck racecheck initcheck synccheck; all where none is named
set -euo pipefail
[ $# -ge 1 ] || { echo "ci/cuda_sanitize.sh: want a build folder, for example build-cuda" >&2; exit 2; }
build=$1
shift
[ $# -gt 0 ] || set -- memcheck racecheck initcheck synccheck
sanitizer=${COMPUTE_SANITIZER:-compute-sanitizer}
command -v "$sanitizer" >/dev/null ||
  { echo "ci/cuda_sanitize.sh: no $sanitizer on the PATH: install the CUDA toolkit's, or set COMPUTE_SANITIZER" >&2; exit 2; }

# Small shapes that still take the kernels through their edges: the tools slow them down by 10 to 1000 times. initcheck
# takes the arrays that tests poison for written; reads of these show as NaN in the same tests. Left out: captured ranks on
# one device, whose kernels wait for each other where the tools run one after another, and NCCL's own kernels.
declare -A filters=(
  [moeref_cuda_test]='*ExpertsVariant.MaskedTokensAndUnroutedSlots/swiglu_limit_bias_after_down*:*ExpertsVariant.AllTokensToOneExpert/relu2_on*:EveryPath/Experts.NoTokensAndOneToken/*:Paths/LayerGraph.*:SortByExpert.*-*ThreeRanks*'
  [moeref_cuda_parallel_test]='*ExpertParallel.RoutingExtremes/all_to_all:*ExpertParallel.RoutingExtremes/*in_chunks:*ExpertParallel.RoutingExtremes/packed-*nccl*'
  [moeref_cuda_layer_test]='Types/MLP.ActivationsAndBiases/*:EveryPath/ExpertsJudged.Tokens/*:Formats/QuantizedExperts.GradientsAfterProductsOfCodes/*:Settings/MoE.LatentProjections/*:Settings/MoE.SharedExperts/float32'
  [moeref_cuda_router_test]='GateDevice.*:*GateCalls.ReplayWithAnIdTwice/*:*AuxLoss.AllMasked/*:BiasUpdate.RanksSumTheirLoads:FakeBalancedGate.InTurn:Init.PartsAreTheWhole:Metrics.OfRandomLoads'
)

status=0
for tool in "$@"; do
  # That the access to a peer's memory is enabled already is an answer that groups ask for, no error.
  [ "$tool" = memcheck ] && options=(--report-api-errors no) || options=()
  for test in moeref_cuda_test moeref_cuda_parallel_test moeref_cuda_layer_test moeref_cuda_router_test; do
    binary=$build/cuda_impl/$test
    [ -x "$binary" ] || { echo "ci/cuda_sanitize.sh: $binary is missing: build it first" >&2; exit 2; }
    echo "== $tool $test"
    "$sanitizer" --tool "$tool" "${options[@]}" --error-exitcode 1 --print-limit 20 \
      "$binary" --gtest_brief=1 "--gtest_filter=${filters[$test]}" || status=1
  done
done
exit "$status"
