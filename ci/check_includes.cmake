# Includes point one way. Run as: cmake -DROOT=<repository> -P ci/check_includes.cmake
# The order, from what everything may use to what nothing uses; what stands on one line is of one rank and may include each other.
cmake_policy(VERSION 3.25)
set(ORDER
  "reference_cpu/call"
  "reference_cpu/arithmetic"
  "reference_cpu/quantization"
  "reference_cpu/components"
  "reference_cpu"
  "reference_cpu/verdict"
  "golden/format"
  "golden/catalogue,golden"
  "property_tests/descriptor"
  "property_tests/suite"
  "property_tests/router"
  "property_tests/layer"
  "property_tests/mutants"
  "property_tests"
  "cuda_impl"
  "tools/terminal"
  "tools/port_abi"
  "tools/port_host"
  "tools/ports"
  "tools/report"
  "tools/bench"
  "tools/own_ports"
  "tools/judging"
  "tools/commands"
  "tools"
  "python")
# The CUDA implementation answers the same call by its own means: of the rest it sees these alone.
set(CUDA_MAY_SEE "reference_cpu/call" "reference_cpu/arithmetic" "cuda_impl")
# The folder whose source an installed header describes.
set(INSTALLED
  "error=reference_cpu/call" "dtype=reference_cpu/call" "tensor=reference_cpu/call" "config=reference_cpu/call"
  "implementation=reference_cpu/call" "component=reference_cpu/call" "score_func=reference_cpu/call" "float32_products=reference_cpu/call" "activation_kind=reference_cpu/call" "activation_format=reference_cpu/call" "accumulator=reference_cpu/call" "conventions=reference_cpu/call" "weight_format=reference_cpu/call" "signature=reference_cpu/call" "evaluation=reference_cpu/arithmetic"
  "reference=reference_cpu" "verdict=reference_cpu/verdict" "golden_file=golden/format"
  "descriptor=property_tests/descriptor" "property=property_tests/suite" "runner=property_tests/suite" "gradients_judged=property_tests/suite")

# Sets `unit` to the longest entry of ORDER that `path` lies in, `rank` to its place; both empty for what ORDER does not name.
function(place path)
  set(best "")
  set(at "")
  set(rank 0)
  foreach(line IN LISTS ORDER)
    string(REPLACE "," ";" units "${line}")
    foreach(candidate IN LISTS units)
      string(FIND "${path}" "${candidate}/" start)
      string(LENGTH "${candidate}" length)
      string(LENGTH "${best}" longest)
      if(start EQUAL 0 AND length GREATER longest)
        set(best "${candidate}")
        set(at ${rank})
      endif()
    endforeach()
    math(EXPR rank "${rank} + 1")
  endforeach()
  set(unit "${best}" PARENT_SCOPE)
  set(rank "${at}" PARENT_SCOPE)
endfunction()

# The path in the repository of what an include names; empty for the libraries of others and for a file beside the includer.
function(resolve include)
  set(path "")
  if(include MATCHES "^moeref/cuda/")
    set(path "cuda_impl/include/${include}")
  elseif(include STREQUAL "moeref/port.h")
    set(path "tools/port_abi/include/moeref/port.h")
  elseif(include MATCHES "^moeref/([a-z0-9_]+)\\.hpp$")
    set(name "${CMAKE_MATCH_1}")
    foreach(row IN LISTS INSTALLED)
      if(row MATCHES "^${name}=(.*)$")
        set(path "${CMAKE_MATCH_1}/${name}.hpp")
      endif()
    endforeach()
    if(path STREQUAL "")
      set(path "unlisted")
    endif()
  elseif(include MATCHES "^(reference_cpu|golden|property_tests|cuda_impl|tools|python)/")
    set(path "${include}")
  endif()
  set(resolved "${path}" PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/reference_cpu/*.[ch]* ${ROOT}/golden/*.[ch]pp ${ROOT}/property_tests/*.[ch]pp
  ${ROOT}/cuda_impl/*.[ch]* ${ROOT}/tools/*.[ch]* ${ROOT}/python/*.[ch]pp)
list(FILTER files INCLUDE REGEX "\\.(c|h|cpp|hpp|cu|cuh)$")
# Example ports are copied out of the repository: each is a program of its own.
list(FILTER files EXCLUDE REGEX "^(tools/example_ports|cuda_impl/emulation/include)/")
set(wrong "")
set(count 0)
foreach(file IN LISTS files)
  set(seen_as "${file}")
  if(file MATCHES "^[a-z_/]*include/(moeref/.*)$")
    resolve("${CMAKE_MATCH_1}")
    set(seen_as "${resolved}")
  endif()
  if(seen_as STREQUAL "unlisted")
    string(APPEND wrong "${file}: an installed header that INSTALLED in ci/check_includes.cmake does not name\n")
    continue()
  endif()
  place("${seen_as}")
  set(own_unit "${unit}")
  set(own_rank "${rank}")
  if(own_unit STREQUAL "")
    string(APPEND wrong "${file}: its folder is not in ORDER of ci/check_includes.cmake\n")
    continue()
  endif()
  string(REGEX MATCH "^[a-z_]+" own_part "${file}")
  file(STRINGS ${ROOT}/${file} includes REGEX "^ *#include \"")
  foreach(line IN LISTS includes)
    string(REGEX REPLACE "^ *#include \"([^\"]*)\".*" "\\1" include "${line}")
    resolve("${include}")
    if(resolved STREQUAL "")
      continue()
    endif()
    math(EXPR count "${count} + 1")
    place("${resolved}")
    set(why "")
    if(unit STREQUAL "")
      set(why "which is not in ORDER or INSTALLED of ci/check_includes.cmake")
    elseif(file MATCHES "/tests/")
      # A test may use its whole part and what lies below it, and the models of others' tests.
      string(REGEX MATCH "^[a-z_]+" part "${resolved}")
      if(rank GREATER own_rank AND NOT part STREQUAL own_part)
        set(why "a part above its own")
      endif()
    elseif(resolved MATCHES "/tests/")
      set(why "a test's file")
    elseif(own_part STREQUAL "cuda_impl" AND NOT unit IN_LIST CUDA_MAY_SEE)
      set(why "and cuda_impl may see ${CUDA_MAY_SEE} alone")
    elseif(rank GREATER own_rank)
      set(why "which stands after ${own_unit}")
    endif()
    if(why)
      string(APPEND wrong "${file} includes ${include}: ${why}\n")
    endif()
  endforeach()
endforeach()
if(count EQUAL 0)
  message(FATAL_ERROR "no include was found below ${ROOT}")
endif()
if(wrong)
  message(NOTICE "${wrong}")
  message(FATAL_ERROR "includes point back, see above")
endif()
message("${count} includes point one way")
