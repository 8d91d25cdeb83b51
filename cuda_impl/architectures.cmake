# The GPUs that cuda_impl is compiled for, where CMAKE_CUDA_ARCHITECTURES does not say: those of this machine, or, where it
# has none, all from A100 on that the toolkit knows, with PTX of the last for those to come. Before enable_language(CUDA).
if(DEFINED CMAKE_CUDA_ARCHITECTURES)
  return()
endif()

# One line per GPU: 9.0
find_program(MOEREF_NVIDIA_SMI nvidia-smi)
mark_as_advanced(MOEREF_NVIDIA_SMI)
set(_capabilities "")
if(MOEREF_NVIDIA_SMI)
  execute_process(COMMAND ${MOEREF_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE _capabilities ERROR_QUIET TIMEOUT 60)
endif()
string(REGEX MATCHALL "[0-9]+\\.[0-9]" _capabilities "${_capabilities}")
set(CMAKE_CUDA_ARCHITECTURES "")
foreach(_capability IN LISTS _capabilities)
  string(REPLACE "." "" _capability ${_capability})
  if(_capability EQUAL 90)
    set(_capability 90a)
  endif()
  if(_capability MATCHES "^[0-9]+$" AND _capability LESS 80)
    continue()
  endif()
  list(APPEND CMAKE_CUDA_ARCHITECTURES ${_capability}-real)
endforeach()
list(REMOVE_DUPLICATES CMAKE_CUDA_ARCHITECTURES)

if(NOT CMAKE_CUDA_ARCHITECTURES)
  # A100; RTX 30; L40S, RTX 40; H100, H200; B200; RTX 50. Blackwell came with CUDA 12.8.
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real)
  if(CUDAToolkit_VERSION VERSION_LESS 12.8)
    list(APPEND CMAKE_CUDA_ARCHITECTURES 90-virtual)
  else()
    list(APPEND CMAKE_CUDA_ARCHITECTURES 100-real 120)
  endif()
endif()
