find_package(GTest REQUIRED)
include(GoogleTest)
# Its calls that tests count, or interfere with, go through device_calls.cpp.
function(moeref_sees_device_calls target)
  target_sources(${target} PRIVATE tests/device_calls.cpp)
  foreach(call __cudaLaunchKernel cudaLaunchKernel cudaLaunchKernelExC cudaMalloc cudaFree)
    target_link_options(${target} PRIVATE LINKER:--wrap=${call})
  endforeach()
endfunction()
add_executable(moeref_cuda_test capacity/tests/capacity_test.cpp experts/tests/arguments_test.cpp experts/tests/experts_test.cpp experts/tests/schedule_test.cpp experts/tests/whole_pass_test.cpp moe/tests/layer_graph_test.cpp permutation/tests/permutation_test.cpp)
add_executable(moeref_cuda_parallel_test expert_parallel/tests/expert_parallel_test.cpp expert_parallel/tests/max_rows_test.cpp expert_parallel/tests/packed_rows_test.cpp parallel/tests/group_test.cpp expert_parallel/tests/random_steps_test.cpp)
moeref_sees_device_calls(moeref_cuda_parallel_test)
target_link_libraries(moeref_cuda_parallel_test PRIVATE moeref::cuda GTest::gtest_main)
target_compile_options(moeref_cuda_parallel_test PRIVATE -Wall -Wextra)
# -L gpu takes these too; with two labels gtest_discover_tests sets neither the second nor what follows.
gtest_discover_tests(moeref_cuda_parallel_test DISCOVERY_MODE PRE_TEST PROPERTIES LABELS multi_gpu TIMEOUT 900
  ENVIRONMENT NCCL_NVLS_ENABLE=0)
# A program that has used a device cannot be forked.
add_executable(moeref_cuda_faults_test expert_parallel/tests/faults_test.cpp)
moeref_sees_device_calls(moeref_cuda_faults_test)
target_link_libraries(moeref_cuda_faults_test PRIVATE moeref::cuda GTest::gtest_main)
target_compile_options(moeref_cuda_faults_test PRIVATE -Wall -Wextra)
gtest_discover_tests(moeref_cuda_faults_test DISCOVERY_MODE PRE_TEST PROPERTIES LABELS multi_gpu TIMEOUT 900
  ENVIRONMENT NCCL_NVLS_ENABLE=0)
# One rank a process, over NCCL: by ci/two_machines.sh, or mpirun on two machines.
if(MOEREF_CUDA_MPI)
  add_executable(moeref_cuda_machines_test expert_parallel/tests/machines_test.cpp)
  target_link_libraries(moeref_cuda_machines_test PRIVATE moeref::cuda GTest::gtest_main)
  target_compile_options(moeref_cuda_machines_test PRIVATE -Wall -Wextra)
  add_test(NAME cuda.two_machines
    COMMAND bash ${repository}/ci/two_machines.sh $<TARGET_FILE:moeref_cuda_machines_test> --gtest_brief=1)
  set_tests_properties(cuda.two_machines PROPERTIES LABELS multi_gpu TIMEOUT 300 SKIP_RETURN_CODE 77)
endif()
target_link_libraries(moeref_cuda_test PRIVATE moeref::cuda GTest::gtest_main)
target_compile_options(moeref_cuda_test PRIVATE -Wall -Wextra)
gtest_discover_tests(moeref_cuda_test DISCOVERY_MODE PRE_TEST PROPERTIES LABELS gpu TIMEOUT 900)

# Against the reference: these need the whole repository.
if(TARGET moeref::cuda_port AND TARGET moeref::golden)
  add_executable(moeref_cuda_layer_test experts/tests/experts_conventions_test.cpp experts/tests/experts_judged_test.cpp experts/tests/quantised_forward_test.cpp experts/tests/quantized_experts_test.cpp quantization/tests/dequantize_test.cpp quantization/tests/quantize_rows_test.cpp adaptors/tests/implementation_test.cpp mlp/tests/mlp_test.cpp moe/tests/moe_conventions_test.cpp moe/tests/moe_test.cpp norm/tests/rms_norm_test.cpp
    ${repository}/reference_cpu/tests/random_call.cpp)
  target_link_libraries(moeref_cuda_layer_test PRIVATE moeref::cuda_port moeref::golden GTest::gtest_main)
  target_compile_options(moeref_cuda_layer_test PRIVATE -Wall -Wextra)
  gtest_discover_tests(moeref_cuda_layer_test DISCOVERY_MODE PRE_TEST PROPERTIES LABELS gpu TIMEOUT 900)
  add_test(NAME cuda_port.computes_nothing_with_the_reference
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DARCHIVE=$<TARGET_FILE:moeref_cuda_port>
      -P ${CMAKE_CURRENT_SOURCE_DIR}/tests/port_symbols.cmake)
  set_tests_properties(cuda_port.computes_nothing_with_the_reference PROPERTIES LABELS gpu)
endif()

# The gate and the components around it, on random calls of the reference's own tests.
if(TARGET moeref::cuda_port)
  add_executable(moeref_cuda_router_test aux_loss/tests/aux_loss_test.cpp bias_update/tests/bias_update_test.cpp fake_balanced_gate/tests/fake_balanced_gate_test.cpp
    gate/tests/gate_arguments_test.cpp gate/tests/gate_conventions_test.cpp gate/tests/gate_device_test.cpp gate/tests/gate_input_test.cpp gate/tests/gate_test.cpp init/tests/init_test.cpp metrics/tests/metrics_test.cpp
    ${repository}/reference_cpu/tests/random_call.cpp)
  target_link_libraries(moeref_cuda_router_test PRIVATE moeref::cuda_port GTest::gtest_main)
  target_compile_options(moeref_cuda_router_test PRIVATE -Wall -Wextra)
  gtest_discover_tests(moeref_cuda_router_test TEST_PREFIX cuda_router. DISCOVERY_MODE PRE_TEST PROPERTIES LABELS gpu TIMEOUT 900)
endif()
