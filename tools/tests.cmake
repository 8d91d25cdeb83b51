include(GoogleTest)

# The pieces of reports and terminal output.
add_executable(moeref_report_tests
  bench/tests/bench_json_test.cpp
  bench/tests/bench_picture_test.cpp
  bench/tests/bench_table_test.cpp
  bench/tests/measurement_json_test.cpp
  bench/tests/peer_test.cpp
  judging/tests/agreement_test.cpp
  judging/tests/case_check_test.cpp
  judging/tests/diagnosis_test.cpp
  judging/tests/must_pass_test.cpp
  judging/tests/sum_probe_test.cpp
  judging/tests/summation_tree_test.cpp
  judging/tests/waivers_test.cpp
  ports/tests/ports_test.cpp
  report/tests/comparison_test.cpp
  report/tests/evidence_test.cpp
  report/tests/findings_test.cpp
  report/tests/html_groups_test.cpp
  report/tests/html_test.cpp
  report/tests/json_test.cpp
  report/tests/junit_test.cpp
  report/tests/mutant_report_test.cpp
  report/tests/report_test.cpp
  report/tests/table_test.cpp
  report/tests/xml_document.cpp
  report/tests/xml_test.cpp
  terminal/tests/columns_test.cpp
  terminal/tests/progress_test.cpp)
target_compile_definitions(moeref_report_tests PRIVATE
  MOEREF_GOLDEN="${PROJECT_SOURCE_DIR}/golden"
  MOEREF_BUILD="${CMAKE_CURRENT_BINARY_DIR}")
target_link_libraries(moeref_report_tests PRIVATE moeref_tools GTest::gtest_main)
gtest_discover_tests(moeref_report_tests PROPERTIES LABELS unit)

# The command line as a user meets it: the binary itself, its exit code, output and the files that it leaves behind.
add_executable(moeref_command_tests
  bench/tests/bench_command_test.cpp
  bench/tests/bench_library_test.cpp
  commands/tests/bad_input_test.cpp
  commands/tests/damaged_golden.cpp
  commands/tests/generate_command_test.cpp
  commands/tests/inspect_command_test.cpp
  commands/tests/mutants_command_test.cpp
  commands/tests/report_options_test.cpp
  commands/tests/validate_command_test.cpp
  report/tests/xml_document.cpp
  tests/run_command.cpp
  tests/start_test.cpp)
target_compile_definitions(moeref_command_tests PRIVATE
  MOEREF_COMMAND="$<TARGET_FILE:moeref>"
  MOEREF_EXAMPLE_PORT="$<TARGET_FILE:example_port_float32>"
  MOEREF_TIMED_PORT="$<TARGET_FILE:moeref_timed_port>"
  MOEREF_DOCUMENTED_SYSTEM="${PROJECT_SOURCE_DIR}/golden/documented_system")
target_link_libraries(moeref_command_tests PRIVATE moeref_tools hdf5::hdf5 GTest::gtest_main)
add_library(moeref_timed_port MODULE bench/tests/timed_port.cpp)
target_link_libraries(moeref_timed_port PRIVATE moeref_port nlohmann_json::nlohmann_json)
add_dependencies(moeref_command_tests moeref moeref_timed_port example_port_float32)
gtest_discover_tests(moeref_command_tests PROPERTIES LABELS unit)

# Ports in processes of their own: the interface, ports that are wrong on purpose, programs that answer requests.
add_subdirectory(ports/tests/broken_ports)
add_subdirectory(ports/tests/eager_ports)
add_executable(moeref_port_tests
  commands/tests/agree_command_test.cpp
  commands/tests/check_command_test.cpp
  commands/tests/probe_command_test.cpp
  judging/tests/declarations_test.cpp
  judging/tests/identity_test.cpp
  port_abi/tests/call_block_test.cpp
  port_abi/tests/port_interface_test.cpp
  port_host/tests/cuda_staging_test.cpp
  port_host/tests/exchange_test.cpp
  ports/tests/broken_port_test.cpp
  ports/tests/capabilities_test.cpp
  ports/tests/exec_port_test.cpp
  ports/tests/odd_port_test.cpp
  ports/tests/odd_ranks_test.cpp
  ports/tests/own_library_test.cpp
  ports/tests/rank_outcomes_test.cpp
  ports/tests/tensor_difference_test.cpp
  ports/tests/rank_shares_test.cpp
  tests/run_command.cpp)
# The header read as C99, which has none of the precompiled headers.
add_library(moeref_port_header_in_c OBJECT port_abi/tests/port_header.c)
target_compile_options(moeref_port_header_in_c PRIVATE -std=c99 -pedantic-errors -Wall -Wextra -Werror)
target_link_libraries(moeref_port_header_in_c PRIVATE moeref_port)
target_compile_definitions(moeref_port_tests PRIVATE
  MOEREF_COMMAND="$<TARGET_FILE:moeref>"
  MOEREF_DOCUMENTED_SYSTEM="${PROJECT_SOURCE_DIR}/golden/documented_system"
  MOEREF_CASES="${PROJECT_SOURCE_DIR}/golden/cases"
  MOEREF_BROKEN_PORTS="${MOEREF_BROKEN_PORTS}"
  MOEREF_EAGER_PORTS="${MOEREF_EAGER_PORTS}"
  MOEREF_INSTALLED_PORTS="${ports_from_command}"
  MOEREF_FAKE_CUDA="${CMAKE_CURRENT_BINARY_DIR}/fake_cuda"
  MOEREF_EXAMPLE_PORT="$<TARGET_FILE:example_port_float32>")
target_link_libraries(moeref_port_tests PRIVATE moeref_tools moeref_port GTest::gtest_main)
# A driver for machines without one; found by LD_LIBRARY_PATH.
add_library(moeref_fake_cuda SHARED port_host/tests/fake_cuda/driver.cpp)
set_target_properties(moeref_fake_cuda PROPERTIES OUTPUT_NAME cuda SOVERSION 1
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/fake_cuda)
add_dependencies(moeref_port_tests moeref moeref_fake_cuda example_port_float32 ${MOEREF_BROKEN_PORT_TARGETS}
  ${MOEREF_EAGER_PORT_TARGETS})
gtest_discover_tests(moeref_port_tests PROPERTIES LABELS unit)

# CUDA comes by a port's library, in every build.
add_test(NAME command.needs_no_cuda COMMAND ${CMAKE_COMMAND} -DREADELF=${CMAKE_READELF} -DNM=${CMAKE_NM}
  -DCOMMAND=$<TARGET_FILE:moeref> -P ${CMAKE_CURRENT_SOURCE_DIR}/tests/needs_no_cuda.cmake)
set_tests_properties(command.needs_no_cuda PROPERTIES LABELS unit)

add_test(NAME suite_host COMMAND ${CMAKE_COMMAND} -DCOMMAND=$<TARGET_FILE:moeref> -DWORK=${CMAKE_CURRENT_BINARY_DIR}
  -DCASE=${PROJECT_SOURCE_DIR}/golden/cases/gate__sigmoid.h5 -P ${CMAKE_CURRENT_SOURCE_DIR}/judging/tests/suite_host_test.cmake)
set_tests_properties(suite_host PROPERTIES LABELS unit)

# The HTML report in a headless browser, which says SKIPPED where there is none.
find_program(MOEREF_PYTHON3 python3)
if(MOEREF_PYTHON3)
  add_test(NAME html_browser COMMAND ${MOEREF_PYTHON3} -B ${CMAKE_CURRENT_SOURCE_DIR}/report/tests/html_browser_test.py
    $<TARGET_FILE:moeref> ${PROJECT_SOURCE_DIR}/golden/documented_system)
else()
  add_test(NAME html_browser COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: there is no python3")
endif()
set_tests_properties(html_browser PROPERTIES LABELS browser SKIP_RETURN_CODE 77 SKIP_REGULAR_EXPRESSION "^SKIPPED")
