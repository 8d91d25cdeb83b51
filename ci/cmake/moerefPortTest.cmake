# moeref_add_port_test(<target> [COMPONENTS <component>...] [MUST_PASS <list>] [CASES <file or folder>...] [TIMEOUT <seconds>]
#                      [LABELS <label>...])
#
# Adds the test port.<target>: `moeref validate` of the library <target>, which has the port interface (moeref/port.h), on the
# golden files that come with moeref, or on CASES. It fails when a case fails; what the port declares it does not have is
# counted and is no failure, unless MUST_PASS (core, training, expert_parallelism, or a file with names) says so.
# COMPONENTS leaves out the cases of all others. TIMEOUT is for one call of the port.
function(moeref_add_port_test target)
  cmake_parse_arguments(PARSE_ARGV 1 _test "" "MUST_PASS;TIMEOUT" "COMPONENTS;CASES;LABELS")
  if(_test_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "moeref_add_port_test: unknown arguments ${_test_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT TARGET ${target})
    message(FATAL_ERROR "moeref_add_port_test: there is no target ${target}")
  endif()
  set(_options)
  foreach(_component ${_test_COMPONENTS})
    list(APPEND _options --component ${_component})
  endforeach()
  if(_test_MUST_PASS)
    list(APPEND _options --must-pass ${_test_MUST_PASS})
  endif()
  if(_test_TIMEOUT)
    list(APPEND _options --timeout ${_test_TIMEOUT})
  endif()
  if(NOT _test_CASES)
    set(_test_CASES ${moeref_CASES_DIR} ${moeref_DOCUMENTED_SYSTEM_DIR})
  endif()
  if(NOT _test_LABELS)
    set(_test_LABELS port)
  endif()
  add_test(NAME port.${target}
    COMMAND moeref::moeref validate --port $<TARGET_FILE:${target}> ${_options} ${_test_CASES})
  set_tests_properties(port.${target} PROPERTIES LABELS "${_test_LABELS}")
endfunction()
