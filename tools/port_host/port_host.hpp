// The process that plays host to a port's library: the hidden command `moeref port-host LIBRARY`.
//
// It talks newline-delimited JSON with moeref over kHostSocket and works on tensors in the memory of
// kHostMemory, which both have mapped. First it says {"status":"ok","port":{...}} or
// {"status":"bad","reason":...}; then it answers requests, until the socket closes:
//   {"request":"run","size":BYTES,"component":C,"backward":B,"config":TEXT,"options":TEXT,
//    "tensors":[{"name","dtype","shape","offset","output","optional"}],
//    "rank":R,"world_size":N, and with N > 1 "call":NUMBER,"exchange_limit":MILLISECONDS}
//   {"status":"ok"}, or "not_supported" | "withdrawn" | "error" | "broken" with a "reason"
//   {"request":"bench","ask":TEXT}, for a port that has bench() (port.h)
//   {"status":"ok","answer":TEXT}, or "not_supported" | "error" | "lost" | "broken" with a "reason"
// "withdrawn" is a not_supported after supports() had said yes; "broken" is a return value that the interface
// does not have. An answer has "exchange" with what went wrong where an exchange with other ranks has failed:
// this process can exchange nothing any more.
#pragma once

#include <string>

namespace moeref {

inline constexpr int kHostSocket = 3;
inline constexpr int kHostMemory = 4;
/// The socket to rank r of those that make calls together is kHostRanks + r.
inline constexpr int kHostRanks = 5;
/// So many processes make a call together at most.
inline constexpr int kMostProcesses = 16;

/// Does not return: ends the process when the socket closes, even while the port computes.
int run_port_host(const std::string& library);

}  // namespace moeref
