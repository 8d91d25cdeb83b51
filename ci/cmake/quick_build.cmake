# What makes a build from nothing quick. The JSON library and GoogleTest take longer to read than most of our files to
# compile: each larger target reads them once, and the largest targets compile eight sources at a time, so that what
# these instantiate from templates is compiled once. Tests spend their time in the libraries: their own code is not
# optimized. ci/headers.sh and ci/tidy.sh look at each source alone.
option(MOEREF_QUICK_BUILD "Precompiled headers, and several sources compiled together" ON)

# Targets whose sources have no two names alike in their anonymous namespaces.
set(moeref_UNITY_TARGETS moeref_tools moeref_golden moeref_golden_tests moeref_report_tests moeref_command_tests
  moeref_port_tests moeref_cuda_emulated_implementation moeref_reference_cpu reference_cpu_test moeref_descriptors
  moeref_properties moeref_mutants moeref_property_framework_tests)

function(moeref_quicken_below directory)
  get_property(targets DIRECTORY ${directory} PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target ${targets})
    get_target_property(type ${target} TYPE)
    get_target_property(libraries ${target} LINK_LIBRARIES)
    if(libraries MATCHES "GTest::")
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-O0>)
    endif()
    if(NOT MOEREF_QUICK_BUILD)
      continue()
    endif()
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources INCLUDE REGEX "\\.cpp$")
    list(LENGTH sources count)
    if(count LESS 4 OR NOT type MATCHES "^(OBJECT_LIBRARY|STATIC_LIBRARY|SHARED_LIBRARY|EXECUTABLE)$")
      continue()
    endif()
    # One for all targets that are compiled alike; g++ 14 refuses one that was made under another optimization.
    set(headers libraries)
    string(REPLACE OBJECT_LIBRARY STATIC_LIBRARY alike ${type})
    get_target_property(options ${target} COMPILE_OPTIONS)
    string(MD5 alike "${alike} ${options}")
    if(libraries MATCHES "GTest::")
      set(headers tests)
    endif()
    get_property(owner GLOBAL PROPERTY moeref_PRECOMPILED_${headers}_${alike})
    if(owner)
      target_precompile_headers(${target} REUSE_FROM ${owner})
    else()
      set_property(GLOBAL PROPERTY moeref_PRECOMPILED_${headers}_${alike} ${target})
      target_precompile_headers(${target} PRIVATE
        <algorithm> <cmath> <filesystem> <functional> <map> <memory> <optional> <span> <string> <string_view> <vector>
        <nlohmann/json.hpp>)
      if(headers STREQUAL tests)
        target_precompile_headers(${target} PRIVATE <gtest/gtest.h>)
      endif()
    endif()
    if(target IN_LIST moeref_UNITY_TARGETS)
      set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    endif()
  endforeach()
  get_property(below DIRECTORY ${directory} PROPERTY SUBDIRECTORIES)
  foreach(subdirectory ${below})
    moeref_quicken_below(${subdirectory})
  endforeach()
endfunction()

set(parts reference_cpu golden property_tests tools)
if(TARGET moeref_cuda_emulated)
  list(APPEND parts cuda_impl/emulation)
endif()
foreach(part IN LISTS parts)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${part}/CMakeLists.txt)
    moeref_quicken_below(${CMAKE_CURRENT_SOURCE_DIR}/${part})
  endif()
endforeach()
