# Fails when the port's objects refer to anything of the reference but types of calls, configs and tensors: what
# the port returns was then computed by kernels or not at all.
# cmake -DNM=nm -DARCHIVE=libmoeref_cuda_port.a -P port_symbols.cmake
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${NM} --undefined-only ${ARCHIVE} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${NM} ${ARCHIVE} failed")
endif()
# Mangled: _ZNK6moeref6Tensor4castE... is moeref::Tensor::cast. What follows moeref:: decides.
set(allowed "4cuda|6Tensor|10InputError|14Implementation|4name|4find|7require|16parse_moe_config|16parse_mlp_config")
string(APPEND allowed "|18parse_call_options|12check_inputs|9signature|13element_count|9to_string|7size_of|11is_floating")
# Which rank has what of a call: rows and experts are counted there, nothing is computed.
set(shares "10RankShares|8division")
string(REGEX MATCHALL "_Z[A-Z]*6moeref[0-9A-Za-z_]+" found "${symbols}")
list(REMOVE_DUPLICATES found)
list(LENGTH found count)
if(count EQUAL 0)
  message(FATAL_ERROR "${ARCHIVE} refers to nothing of moeref: nothing was checked")
endif()
foreach(symbol IN LISTS found)
  if(NOT symbol MATCHES "^_Z[A-Z]*6moeref(${allowed}|${shares})")
    message(SEND_ERROR "the CUDA port refers to ${symbol}")
  endif()
endforeach()
