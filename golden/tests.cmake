add_executable(moeref_golden_tests
  catalogue/tests/case_builder_test.cpp
  catalogue/tests/data_choice_test.cpp
  catalogue/tests/drawn_case_test.cpp
  catalogue/tests/presets_test.cpp
  catalogue/tests/recipes_test.cpp
  format/tests/bad_input_test.cpp
  format/tests/child_process_test.cpp
  format/tests/damaged_file_test.cpp
  format/tests/golden_file_test.cpp
  format/tests/manifest_test.cpp)
# The tests make bad files with HDF5 itself.
target_compile_definitions(moeref_golden_tests PRIVATE
  MOEREF_DOCUMENTED_SYSTEM="${CMAKE_CURRENT_SOURCE_DIR}/documented_system")
target_compile_options(moeref_golden_tests PRIVATE -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
target_link_libraries(moeref_golden_tests PRIVATE moeref::golden hdf5::hdf5 GTest::gtest_main)
include(GoogleTest)
gtest_discover_tests(moeref_golden_tests PROPERTIES LABELS unit)

# The committed files, against the recipes and against the reference.
foreach(suite committed documented)
  add_executable(moeref_${suite}_tests tests/${suite}_test.cpp)
  target_compile_definitions(moeref_${suite}_tests PRIVATE
    MOEREF_GOLDEN_CASES="${CMAKE_CURRENT_SOURCE_DIR}/cases"
    MOEREF_DOCUMENTED_SYSTEM="${CMAKE_CURRENT_SOURCE_DIR}/documented_system")
  target_link_libraries(moeref_${suite}_tests PRIVATE moeref::golden GTest::gtest_main)
endforeach()
add_test(NAME golden.committed COMMAND moeref_committed_tests)
set_tests_properties(golden.committed PROPERTIES LABELS golden)
add_test(NAME golden.documented_system COMMAND moeref_documented_tests)
set_tests_properties(golden.documented_system PROPERTIES LABELS documented)
