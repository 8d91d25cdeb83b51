# Every dependency in one place: the system's package where there is one, else a pinned download.
# FETCHCONTENT_TRY_FIND_PACKAGE_MODE=NEVER downloads them all; FETCHCONTENT_SOURCE_DIR_<NAME>=<folder> takes a checkout.
include(FetchContent)

find_package(Threads REQUIRED)

# Dependencies are built with their own warnings.
set(MOEREF_WARNING_AS_ERROR ${CMAKE_COMPILE_WARNING_AS_ERROR})
set(CMAKE_COMPILE_WARNING_AS_ERROR OFF)

# Options that the downloads read.
set(JSON_BuildTests OFF CACHE INTERNAL "")
set(JSON_Install ON CACHE INTERNAL "")
set(FMT_INSTALL ON CACHE INTERNAL "")
set(INSTALL_GTEST OFF CACHE INTERNAL "")
set(CLI11_BUILD_TESTS OFF CACHE INTERNAL "")
set(CLI11_BUILD_EXAMPLES OFF CACHE INTERNAL "")
set(CLI11_BUILD_DOCS OFF CACHE INTERNAL "")
set(BUILD_MOCK OFF CACHE INTERNAL "")

set_property(GLOBAL PROPERTY MOEREF_DEPENDENCIES "")

function(moeref_record package version origin)
  set_property(GLOBAL APPEND PROPERTY MOEREF_DEPENDENCIES "${package}|${version}|${origin}")
endfunction()

# moeref_dependency(<package> <target that must exist after> [VERSION <oldest>] GIT <repository> TAG <name> COMMIT <hash>)
# Sets <package>_FETCHED. VERSION is left out for packages that do not say theirs.
macro(moeref_dependency package target)
  cmake_parse_arguments(_dep "" "VERSION;GIT;COMMIT;TAG" "" ${ARGN})
  FetchContent_Declare(${package} GIT_REPOSITORY ${_dep_GIT} GIT_TAG ${_dep_COMMIT}
    FIND_PACKAGE_ARGS ${_dep_VERSION})
  FetchContent_MakeAvailable(${package})
  if(${package}_FOUND)
    set(${package}_FETCHED FALSE)
    set(_dep_found ${${package}_VERSION})
    # DLPack's package has a version of its own; the header has the one that counts.
    if("${package}" STREQUAL "dlpack")
      set(_dep_found "")
    endif()
    moeref_record(${package} "${_dep_found}" "system")
  else()
    set(${package}_FETCHED TRUE)
    moeref_record(${package} "${_dep_TAG}" "downloaded")
  endif()
  if(NOT TARGET ${target})
    message(FATAL_ERROR "${package} has no target ${target}: remove its package, or use "
      "-DFETCHCONTENT_TRY_FIND_PACKAGE_MODE=NEVER to download a known version")
  endif()
endmacro()

moeref_dependency(nlohmann_json nlohmann_json::nlohmann_json VERSION 3.10
  GIT https://github.com/nlohmann/json.git TAG 3.11.3 COMMIT 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03)
moeref_dependency(fmt fmt::fmt VERSION 8
  GIT https://github.com/fmtlib/fmt.git TAG 10.2.1 COMMIT e69e5f977d458f2650bb346dadf2ad30c5320281)
moeref_dependency(CLI11 CLI11::CLI11 VERSION 2.1
  GIT https://github.com/CLIUtils/CLI11.git TAG 2.4.2 COMMIT 6c7b07a878ad834957b98d0f9ce1dbe0cb204fc9)
moeref_dependency(dlpack dlpack::dlpack
  GIT https://github.com/dmlc/dlpack.git TAG 0.8 COMMIT 365b823cedb281cd0240ca601aba9b78771f91a3)
moeref_dependency(GTest GTest::gtest_main VERSION 1.11
  GIT https://github.com/google/googletest.git TAG 1.14.0 COMMIT f8d7d77c06936315286eb55f8de22cd23c188571)
moeref_dependency(rapidcheck rapidcheck
  GIT https://github.com/emil-e/rapidcheck.git TAG ff6af6f COMMIT ff6af6fc683159deb51c543b065eba14dfcf329b)

# Debian's rapidcheckConfig.cmake computes its prefix one folder short, /usr/lib, so that its include path does not exist.
if(NOT rapidcheck_FETCHED)
  get_target_property(_include rapidcheck INTERFACE_INCLUDE_DIRECTORIES)
  if(NOT EXISTS "${_include}/rapidcheck.h")
    find_path(MOEREF_RAPIDCHECK_INCLUDE rapidcheck.h REQUIRED)
    foreach(_target rapidcheck rapidcheck_gtest)
      if(TARGET ${_target})
        set_target_properties(${_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${MOEREF_RAPIDCHECK_INCLUDE}")
      endif()
    endforeach()
  endif()
endif()

# HDF5 by CMake's own find module, whose target is hdf5::hdf5; a download is pinned by the hash of its archive.
if(NOT FETCHCONTENT_TRY_FIND_PACKAGE_MODE STREQUAL "NEVER")
  find_package(HDF5 1.10 COMPONENTS C QUIET)
endif()
if(HDF5_FOUND AND TARGET hdf5::hdf5)
  set(HDF5_FETCHED FALSE)
  moeref_record(HDF5 "${HDF5_VERSION}" "system")
else()
  set(HDF5_FETCHED TRUE)
  foreach(_off BUILD_TESTING HDF5_BUILD_TOOLS HDF5_BUILD_EXAMPLES HDF5_BUILD_HL_LIB HDF5_BUILD_CPP_LIB
      HDF5_BUILD_FORTRAN HDF5_ENABLE_SZIP_SUPPORT HDF5_ENABLE_Z_LIB_SUPPORT)
    set(_kept_${_off} ${${_off}})
    set(${_off} OFF)
  endforeach()
  set(HDF5_EXTERNALLY_CONFIGURED ON)
  FetchContent_Declare(HDF5 URL https://github.com/HDFGroup/hdf5/archive/refs/tags/hdf5_1.14.6.tar.gz
    URL_HASH SHA256=09ee1c671a87401a5201c06106650f62badeea5a3b3941e9b1e2e1e08317357f)
  FetchContent_MakeAvailable(HDF5)
  set(BUILD_TESTING ${_kept_BUILD_TESTING})
  add_library(hdf5::hdf5 ALIAS hdf5-static)
  moeref_record(HDF5 1.14.6 "downloaded")
endif()

set(CMAKE_COMPILE_WARNING_AS_ERROR ${MOEREF_WARNING_AS_ERROR})
