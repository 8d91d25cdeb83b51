# What the suite's host answers: cmake -DCOMMAND=<moeref> -DCASE=<golden file> -DWORK=<folder> -P suite_host_test.cmake
cmake_policy(VERSION 3.25)

function(ask port requests code)
  file(WRITE ${WORK}/suite_host_requests.txt "${requests}")
  execute_process(COMMAND ${COMMAND} suite-host ${port} 10 INPUT_FILE ${WORK}/suite_host_requests.txt
    OUTPUT_VARIABLE answers RESULT_VARIABLE result)
  if(NOT result EQUAL code)
    message(FATAL_ERROR "exit code ${result}, want ${code}: ${answers}")
  endif()
  foreach(want IN LISTS ARGN)
    string(FIND "${answers}" "${want}" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "want ${want} in\n${answers}")
    endif()
    # In the order of the requests.
    string(SUBSTRING "${answers}" ${at} -1 answers)
  endforeach()
endfunction()

set(check "\"scale\":\"small\",\"seed\":1,\"cases\":20,\"component\":\"gate\",\"forward_only\":false}\n")
ask(cpu "{\"check\":\"weight_sums\",${check}{\"check\":\"no_such\",${check}{}\nnonsense\n\
{\"repeat\":\"weight_sums\",\"line\":\"gate T=1 E=1\"}\n{\"validate\":\"${CASE}\",\"forward_only\":false}\n" 0
  "{\"opened\":\"cpu\"}"
  "\"passed\":20,\"reasons\":{},\"status\":\"PASS\""
  "{\"error\":\"there is no property 'no_such'"
  "{\"error\":\"a request without"
  "{\"error\":\"a bad request"
  "{\"failed\":false,\"finding\":\"\",\"status\":\"PASS\"}"
  "\"failed\":false,\"finding\":\"\",\"status\":\"PASS\",\"warnings\":[]")
ask(nonsense "" 2 "{\"error\":\"unknown port 'nonsense'")

execute_process(COMMAND ${COMMAND} suite-host OUTPUT_VARIABLE suite COMMAND_ERROR_IS_FATAL ANY)
string(JSON first GET "${suite}" 0 name)
if(first STREQUAL "")
  message(FATAL_ERROR "the suite's first property has no name")
endif()
