# moeref_translate(<source> <out>): the path of the C++ that stands for a CUDA source, both named from the root of the
# repository. A header keeps its name, so that includes of ${MOEREF_TRANSLATED} find it first.
set(MOEREF_TRANSLATED ${CMAKE_BINARY_DIR}/translated)
function(moeref_translate source out)
  get_filename_component(repository ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../.. ABSOLUTE)
  set(target ${CMAKE_BINARY_DIR}/translated/${source})
  if(source MATCHES "\\.cu$")
    string(APPEND target .cpp)
    # Kernels compare threadIdx with int, and unroll.
    set_source_files_properties(${target} PROPERTIES
      COMPILE_OPTIONS "-include;emulated/device.hpp;-Wno-sign-compare;-Wno-unknown-pragmas")
  endif()
  add_custom_command(OUTPUT ${target}
    COMMAND ${CMAKE_COMMAND} -DIN=${repository}/${source} -DOUT=${target}
      -P ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/translate.cmake
    DEPENDS ${repository}/${source} ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/translate.cmake
    COMMENT "Translating ${source}" VERBATIM)
  set(${out} ${target} PARENT_SCOPE)
endfunction()
