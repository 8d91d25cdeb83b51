# find_package(moeref) of the Python package: what a port in C or C++ needs, moeref::port (headers), moeref::moeref (the command),
# moeref_add_port_test and the golden files. The reference's libraries are in an installation by CMake alone.
#   cmake -Dmoeref_DIR="$(python -c 'import moeref; print(moeref.cmake_dir())')" ...
get_filename_component(_moeref_package "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
set(moeref_CASES_DIR "${_moeref_package}/golden/cases")
set(moeref_DOCUMENTED_SYSTEM_DIR "${_moeref_package}/golden/documented_system")
# A port in plain C++, to copy.
set(moeref_EXAMPLE_PORT_DIR "${_moeref_package}/example_ports/cpp")

if(NOT TARGET moeref::port)
  add_library(moeref::port INTERFACE IMPORTED)
  target_include_directories(moeref::port INTERFACE "${_moeref_package}/include")
  add_executable(moeref::moeref IMPORTED)
  set_target_properties(moeref::moeref PROPERTIES IMPORTED_LOCATION "${_moeref_package}/bin/moeref")
endif()
include("${CMAKE_CURRENT_LIST_DIR}/moerefPortTest.cmake")
