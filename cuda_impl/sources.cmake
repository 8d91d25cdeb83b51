# What computes on any device, and the implementation behind the interface of the reference.
set(MOEREF_CUDA_SOURCES
  activation/activation.cu
  aux_loss/aux_loss.cu aux_loss/statistics.cu
  bias_update/bias_update.cu bias_update/score_quantiles.cu
  capacity/capacity.cu
  device/device.cu
  permutation/input_slots.cu permutation/unpermute.cu permutation/permute.cu
  expert_parallel/combine.cu expert_parallel/dispatch.cu expert_parallel/exchange_pass.cpp
  expert_parallel/expert_parallel.cpp expert_parallel/layout.cpp expert_parallel/packed_places.cu
  experts/experts_backward.cpp experts/experts_forward.cpp experts/layout.cpp
  fake_balanced_gate/fake_balanced_gate.cu
  gate/expert_scale.cu gate/fma_product.cu gate/gate_backward.cpp gate/gate_forward.cpp gate/kept_slots.cu
  gate/layout.cpp gate/route_tokens.cu gate/scores_backward.cu gate/sinkhorn.cu gate/tensor_core_product.cu gate/z_loss.cu
  experts/bias_gradient.cu experts/quantised_forward.cpp experts/quantised_rows.cu experts/router_weight_gradient.cu
  experts/weight_gradients_by_row.cu
  grouped_gemm/grouped_gemm.cpp
  grouped_gemm/few_rows/bfloat16.cu grouped_gemm/few_rows/float16.cu grouped_gemm/few_rows/float_codes.cu
  grouped_gemm/few_rows/group_codes.cu grouped_gemm/few_rows/products.cpp
  grouped_gemm/portable/bfloat16.cu grouped_gemm/portable/float16.cu grouped_gemm/portable/float32.cu
  linear/bias.cu linear/blas.cpp linear/linear.cpp
  mlp/mlp.cpp mlp/mlp_activation.cu
  moe/moe_backward.cpp moe/moe_forward.cpp moe/layer_kernels.cu moe/layout.cpp
  norm/rms_norm.cu
  init/init.cu
  metrics/metrics.cu
  parallel/barrier.cu parallel/copy_rows.cu parallel/group.cpp parallel/group_creation.cpp parallel/nccl_link.cpp parallel/nccl_passes.cpp
  parallel/peers.cpp parallel/thread_bootstrap.cpp
  permutation/sort_by_expert.cu permutation/sort_few_slots.cu
  quantization/dequantize.cu quantization/quantize_rows.cu
  token_blocks/token_blocks.cpp)
set(MOEREF_CUDA_PORT_SOURCES
  adaptors/aux_loss.cpp adaptors/bias_update.cpp adaptors/call_ranks.cpp
  adaptors/cuda_implementation.cpp
  adaptors/device_tensors.cpp adaptors/experts.cpp adaptors/fake_balanced_gate.cpp
  adaptors/gate.cpp adaptors/init.cpp adaptors/layer_config.cpp adaptors/metrics.cpp
  adaptors/mlp.cpp adaptors/moe.cpp)
