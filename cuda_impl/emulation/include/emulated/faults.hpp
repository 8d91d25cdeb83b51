// What a device may do to a program: for tests that want to see the program survive it.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "cuda_runtime_api.h"

namespace emulated {

/// The calling thread's calls of this function of the runtime, or of NCCL, or its kernel launches ("launch"),
/// go through `instead` first: where it gives an error the call fails with it. An empty function ends it.
void intercept(const std::string& call, std::function<cudaError_t()> instead);
/// For as long as it lives.
class Interception {
 public:
  Interception(std::string call, std::function<cudaError_t()> instead) : call_(std::move(call)) {
    intercept(call_, std::move(instead));
  }
  Interception(const Interception&) = delete;
  ~Interception() { intercept(call_, {}); }

 private:
  std::string call_;
};
/// What the runtime asks at the begin of a call; an error is the last one, too, as cudaGetLastError gives it.
cudaError_t intercepted(const char* call);

/// What the stream is given from here on comes after work that takes as long.
void occupy(cudaStream_t stream, std::chrono::milliseconds time);
/// The calling thread's passes of NCCL take as long, each.
void slow_nccl(std::chrono::milliseconds time);
/// cudaSetDevice takes as long for this device, as where its context is made.
void slow_device(int device, std::chrono::milliseconds time);

}  // namespace emulated
