# The sources of the eager port, which three programs compile.
set(MOEREF_EAGER_PORT_SOURCES)
foreach(part bias_update experts gate losses mlp port quantised_product rms_norm router_input score selection)
  list(APPEND MOEREF_EAGER_PORT_SOURCES ${CMAKE_CURRENT_LIST_DIR}/eager_${part}.cpp)
endforeach()
