include(tests/eager_port.cmake)
add_executable(reference_cpu_test
  arithmetic/tests/bounded_test.cpp
  arithmetic/tests/counter_generator_test.cpp
  arithmetic/tests/exact_math_test.cpp
  arithmetic/tests/parallel_memory_test.cpp
  arithmetic/tests/product_test.cpp
  arithmetic/tests/real_test.cpp
  arithmetic/tests/torch_generator_test.cpp
  call/tests/config_test.cpp
  call/tests/conventions_test.cpp
  call/tests/dtype_test.cpp
  call/tests/signature_test.cpp
  call/tests/tensor_test.cpp
  components/tests/activation_test.cpp
  components/tests/aux_loss_test.cpp
  components/tests/bias_update_test.cpp
  components/tests/capacity_test.cpp
  components/tests/experts_test.cpp
  components/tests/fake_balanced_gate_test.cpp
  components/tests/forced_stages_test.cpp
  components/tests/gate_test.cpp
  components/tests/init_test.cpp
  components/tests/metrics_test.cpp
  components/tests/mlp_test.cpp
  components/tests/moe_test.cpp
  components/tests/parallelism_test.cpp
  components/tests/rms_norm_test.cpp
  components/tests/router_input_test.cpp
  components/tests/score_test.cpp
  components/tests/selection_test.cpp
  components/tests/sinkhorn_test.cpp
  quantization/tests/dequantize_test.cpp
  quantization/tests/element_codec_test.cpp
  quantization/tests/quantised_operands.cpp
  quantization/tests/quantize_activations_test.cpp
  quantization/tests/quantize_test.cpp
  quantization/tests/quantized_call_test.cpp
  quantization/tests/quantized_products_test.cpp
  quantization/tests/truncated_sums_test.cpp
  tests/bounds_test.cpp
  ${MOEREF_EAGER_PORT_SOURCES}
  tests/gradient_check.cpp
  tests/random_call.cpp
  tests/tf32_bounds_test.cpp
  verdict/tests/copied_tokens_test.cpp
  verdict/tests/judge_test.cpp
  verdict/tests/own_selection_test.cpp
  verdict/tests/probable_error_test.cpp
  verdict/tests/reference_results_test.cpp
  verdict/tests/routing_verdict_test.cpp
  verdict/tests/sampled_test.cpp
  verdict/tests/value_verdict_test.cpp)
target_link_libraries(reference_cpu_test PRIVATE moeref::reference_cpu GTest::gtest_main)
include(GoogleTest)
gtest_discover_tests(reference_cpu_test DISCOVERY_TIMEOUT 60 PROPERTIES LABELS unit TIMEOUT 120)

# The same bits from every thread count and vector width here; ci/ asks other compilers.
add_executable(determinism_hash tests/determinism_hash.cpp)
target_link_libraries(determinism_hash PRIVATE moeref::reference_cpu)
add_test(NAME determinism.threads_and_widths COMMAND determinism_hash --verbose)
set_tests_properties(determinism.threads_and_widths PROPERTIES LABELS unit TIMEOUT 120)
