#include "emulated/faults.hpp"

#include <map>
#include <utility>

#include "cuda_impl/emulation/runtime.hpp"

namespace {

thread_local std::map<std::string, std::function<cudaError_t()>> interceptions;

}  // namespace

namespace emulated {

void intercept(const std::string& call, std::function<cudaError_t()> instead) {
  if (instead)
    interceptions[call] = std::move(instead);
  else
    interceptions.erase(call);
}

cudaError_t intercepted(const char* call) {
  const auto at = interceptions.find(call);
  return at == interceptions.end() ? cudaSuccess : noted(at->second());
}

void occupy(cudaStream_t stream, std::chrono::milliseconds time) {
  stream->busy_until = std::max(stream->busy_until, std::chrono::steady_clock::now()) + time;
}

}  // namespace emulated
