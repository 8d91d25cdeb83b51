# The example of a port on a GPU, over a driver whose memory is the process's.
moeref_translate(tools/example_ports/cuda/port.cu example_port)
add_library(example_port_cuda_emulated MODULE ${example_port})
target_include_directories(example_port_cuda_emulated PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/example_ports/cpp)
target_link_libraries(example_port_cuda_emulated PRIVATE moeref_cuda_emulated moeref::port)
set_target_properties(example_port_cuda_emulated PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
target_link_options(example_port_cuda_emulated PRIVATE -Wl,--exclude-libs,ALL)
moeref_add_port_test(example_port_cuda_emulated COMPONENTS experts LABELS "port;emulated")
set_tests_properties(port.example_port_cuda_emulated PROPERTIES
  ENVIRONMENT "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:moeref_fake_cuda>")
