# What computes on any device, and the implementation behind the interface of the reference.
set(MOEREF_CUDA_SOURCES
  aux_loss/aux_loss.cu aux_loss/statistics.cu
  bias_update/bias_update.cu
  combine/combine.cu dispatch/dispatch.cu
  expert_parallel/combine.cu expert_parallel/dispatch.cu expert_parallel/exchange_pass.cpp
  expert_parallel/expert_parallel.cpp expert_parallel/plan.cpp
  experts/experts_backward.cpp experts/experts_forward.cpp experts/plan.cpp
  fake_balanced_gate/fake_balanced_gate.cu
  gate/fma_product.cu gate/gate_backward.cpp gate/gate_forward.cpp gate/plan.cpp gate/route_tokens.cu
  gate/scores_backward.cu gate/tensor_core_product.cu
  gradients/bias_gradient.cu gradients/router_weight_gradient.cu
  grouped_gemm/grouped_gemm.cpp
  grouped_gemm/portable.cpp grouped_gemm/portable_bfloat16.cu grouped_gemm/portable_float32.cu
  linear/bias.cu linear/blas.cpp linear/linear.cpp
  mlp/mlp.cpp mlp/mlp_activation.cu
  moe/layer_backward.cpp moe/layer_forward.cpp moe/layer_kernels.cu moe/layer_plan.cpp
  init/init.cu
  metrics/metrics.cu
  parallel/barrier.cu parallel/group.cpp parallel/nccl_link.cpp parallel/peers.cpp parallel/thread_bootstrap.cpp
  permutation/sort_by_expert.cu)
set(MOEREF_CUDA_PORT_SOURCES
  implementation/aux_loss.cpp implementation/bias_update.cpp implementation/call_ranks.cpp
  implementation/cuda_implementation.cpp
  implementation/device_tensors.cpp implementation/experts.cpp implementation/fake_balanced_gate.cpp
  implementation/gate.cpp implementation/init.cpp implementation/layer_config.cpp implementation/metrics.cpp
  implementation/mlp.cpp implementation/moe.cpp)
# That implementation as a library for moeref validate --port, with a process a rank.
set(MOEREF_CUDA_PORT_LIBRARY_SOURCES
  port/cuda_port.cpp port/exchange_bootstrap.cpp
  ../tools/port_abi/call_tensors.cpp ../tools/port_abi/dlpack_types.cpp ../tools/port_abi/implementation_as_port.cpp
  ../tools/port_abi/ranks_as_port.cpp)
