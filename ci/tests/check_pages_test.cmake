# check_pages.cmake passes citations of pages that exist and names one of a page that does not.
# Run as: cmake -DROOT=<repository> -DWORK=<folder> -P ci/tests/check_pages_test.cmake
cmake_policy(VERSION 3.25)

function(expect text pattern)
  file(REMOVE_RECURSE ${WORK})
  file(WRITE ${WORK}/reference_cpu/SPEC.md "See README.md.\n")
  file(WRITE ${WORK}/README.md "See reference_cpu/SPEC.md.\n")
  file(WRITE ${WORK}/golden/x.cpp "// ${text}\n")
  execute_process(COMMAND ${CMAKE_COMMAND} -DROOT=${WORK} -P ${ROOT}/ci/check_pages.cmake
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(pattern STREQUAL "" AND NOT status EQUAL 0)
    message(SEND_ERROR "'${text}' was refused:\n${output}")
  elseif(NOT pattern STREQUAL "" AND (status EQUAL 0 OR NOT output MATCHES "${pattern}"))
    message(SEND_ERROR "after '${text}' the check said:\n${output}")
  endif()
endfunction()

expect("SPEC.md 3.1" "")
expect("reference_cpu/SPEC.md, 3.1" "")
expect("TOLERANCE.md" "golden/x.cpp cites TOLERANCE.md")
expect("golden/SPEC.md" "golden/x.cpp cites golden/SPEC.md")
file(REMOVE_RECURSE ${WORK})
