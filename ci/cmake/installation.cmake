# What is installed, and the package that find_package(moeref) finds.
include(CMakePackageConfigHelpers)

# A downloaded HDF5 is linked in statically and belongs to no package that an outside project could find.
if(HDF5_FETCHED)
  set(MOEREF_INSTALL_STATE "no: it needs the system's HDF5")
  return()
endif()

set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/moeref)

# The folder whose include/ is installed, and the target, which keeps its name after moeref_.
foreach(_part reference_cpu=reference_cpu golden=golden property_tests=properties cuda_impl=cuda)
  string(REPLACE "=" ";" _part ${_part})
  list(POP_FRONT _part _folder _library)
  if(NOT TARGET moeref_${_library})
    continue()
  endif()
  set_target_properties(moeref_${_library} PROPERTIES EXPORT_NAME ${_library})
  install(TARGETS moeref_${_library} EXPORT moerefTargets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(DIRECTORY ${_folder}/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endforeach()
# What draws the properties' cases, a static library.
if(TARGET moeref_properties)
  install(FILES $<TARGET_FILE:rapidcheck> DESTINATION ${CMAKE_INSTALL_LIBDIR}/moeref RENAME librapidcheck.a)
endif()
# What an outside project must find for the CUDA library.
set(MOEREF_INSTALLS_CUDA FALSE)
set(MOEREF_INSTALLS_MPI FALSE)
if(TARGET moeref_cuda)
  set(MOEREF_INSTALLS_CUDA TRUE)
  if(MOEREF_CUDA_MPI)
    set(MOEREF_INSTALLS_MPI TRUE)
  endif()
endif()
if(TARGET moeref_port)
  set_target_properties(moeref_port PROPERTIES EXPORT_NAME port)
  install(TARGETS moeref_port EXPORT moerefTargets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(DIRECTORY tools/port_abi/include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(FILES ci/cmake/moerefPortTest.cmake DESTINATION ${_package_dir})
  install(DIRECTORY tools/example_ports/cpp tools/example_ports/cuda DESTINATION ${CMAKE_INSTALL_DATADIR}/moeref/example_ports)
endif()
if(TARGET moeref)
  install(TARGETS moeref EXPORT moerefTargets RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET moeref_cuda_port_library)
  install(TARGETS moeref_cuda_port_library LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/moeref)
endif()
install(EXPORT moerefTargets NAMESPACE moeref:: DESTINATION ${_package_dir})

configure_package_config_file(ci/cmake/moerefConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/moerefConfig.cmake
  INSTALL_DESTINATION ${_package_dir} PATH_VARS CMAKE_INSTALL_DATADIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/moerefConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/moerefConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/moerefConfigVersion.cmake
  DESTINATION ${_package_dir})

# Golden files to validate a port against without a checkout: the documented system's cases, and our own.
install(DIRECTORY golden/documented_system golden/cases DESTINATION ${CMAKE_INSTALL_DATADIR}/moeref)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
set(MOEREF_INSTALL_STATE "yes: cmake --install ${CMAKE_BINARY_DIR} --prefix DIR")
