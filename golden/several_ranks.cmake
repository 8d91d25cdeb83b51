# moeref_CASES_OF_SEVERAL_RANKS: the golden files of expert, context and data parallelism.
file(GLOB moeref_CASES_OF_SEVERAL_RANKS CONFIGURE_DEPENDS
  ${CMAKE_CURRENT_LIST_DIR}/cases/*__ep[248]*.h5 ${CMAKE_CURRENT_LIST_DIR}/cases/*__bf16_ep[248]*.h5
  ${CMAKE_CURRENT_LIST_DIR}/cases/*__cp2_*.h5 ${CMAKE_CURRENT_LIST_DIR}/cases/*_context_parallel*.h5
  ${CMAKE_CURRENT_LIST_DIR}/cases/*_data_parallel*.h5)
