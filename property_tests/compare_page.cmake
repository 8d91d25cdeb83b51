# PAGE is what PROGRAM prints.
execute_process(COMMAND ${PROGRAM} OUTPUT_FILE ${WORK}/README.md COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${WORK}/README.md ${PAGE} RESULT_VARIABLE differs)
if(differs)
  message(FATAL_ERROR "${PAGE} is not what the property tables say: run '${PROGRAM} > ${PAGE}'")
endif()
