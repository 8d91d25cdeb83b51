#include "cuda_impl/emulation/runtime.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "emulated/block.hpp"
#include "emulated/faults.hpp"

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local bool launch_failed = false;  // as on a device, nothing of the thread works after it

thread_local bool kernels_missing = false;

cudaError_t state() { return launch_failed ? cudaErrorLaunchFailure : cudaSuccess; }
bool capturing(cudaStream_t stream) { return stream && stream->captures; }

}  // namespace

namespace emulated {

void set_error(cudaError_t error) {
  last_error = error;
  launch_failed = launch_failed || error == cudaErrorLaunchFailure;
}

void lose_kernels(bool lost) { kernels_missing = lost; }

void enqueue(cudaStream_t stream, std::function<bool()> work) {
  if (capturing(stream)) {
    stream->captures->work.push_back(std::move(work));
    return;
  }
  if (launch_failed || !work()) set_error(cudaErrorLaunchFailure);
}

void Launch::run(std::function<void()> thread) const {
  if (kernels_missing) return set_error(cudaErrorNoKernelImageForDevice);
  if (intercepted("launch") != cudaSuccess) return;
  const auto threads = std::uint64_t{block_.x} * block_.y * block_.z;
  if (grid_.x == 0 || grid_.y == 0 || grid_.z == 0 || grid_.x > 0x7fffffffu || grid_.y > 65535 ||
      grid_.z > 65535 || threads == 0 || threads > 1024 || block_.z > 64 ||
      shared_bytes_ > kEmulatedSharedBytes) {
    set_error(cudaErrorInvalidConfiguration);
    return;
  }
  enqueue(stream_, [launch = *this, thread = std::move(thread)] {
    return run_grid(launch.kernel_, launch.grid_, launch.block_, launch.shared_bytes_, thread);
  });
}

}  // namespace emulated

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorNotSupported:
      return "operation not supported by the emulated device";
    default:
      return "invalid argument";
  }
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)()) {
  return kernels_missing ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = std::exchange(last_error, cudaSuccess);
  return launch_failed ? cudaErrorLaunchFailure : error;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  if (const cudaError_t error = emulated::intercepted("cudaStreamCreate")) return error;
  *stream = new CUstream_st;
  return state();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return cudaStreamCreate(stream);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return state();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return state();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream && !capturing(stream)) std::this_thread::sleep_until(stream->busy_until);
  return capturing(stream) ? cudaErrorNotSupported : state();  // CUDA ends the capture with an error
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (stream && std::chrono::steady_clock::now() < stream->busy_until) return cudaErrorNotReady;
  return cudaStreamSynchronize(stream);
}
cudaError_t cudaDeviceSynchronize() { return state(); }

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  if (const cudaError_t error = emulated::intercepted("cudaEventCreate")) return error;
  *event = new CUevent_st;
  return state();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return state();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->captured = stream ? stream->captures : nullptr;
  emulated::enqueue(stream, [event, stream] {
    event->at = std::chrono::steady_clock::now();
    if (stream) event->at = std::max(event->at, stream->busy_until);
    return true;
  });
  return state();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->captured) return cudaErrorNotSupported;
  return std::chrono::steady_clock::now() < event->at ? cudaErrorNotReady : state();
}
// What comes before the record has run when the record returns. A stream that waits for one that is captured
// is captured with it, and its work comes in the order of the calls.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (!event->captured) return capturing(stream) ? cudaErrorNotSupported : state();
  if (!stream || (stream->captures && stream->captures != event->captured)) return cudaErrorInvalidValue;
  if (!stream->captures) event->captured->joined.push_back(stream);
  stream->captures = event->captured;
  return state();
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return state();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->captures) return cudaErrorInvalidValue;
  stream->captures = new CUgraph_st;
  return state();
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return state();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->captures, nullptr);
  if (!*graph) return cudaErrorInvalidValue;
  for (const cudaStream_t other : std::exchange((*graph)->joined, {})) other->captures = nullptr;
  return state();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{*graph};
  return state();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& work : exec->work) emulated::enqueue(stream, work);
  return state();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return state();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return state();
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  emulated::enqueue(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
    return true;
  });
  return state();
}
cudaError_t cudaMemsetAsync(void* memory, int byte, std::size_t bytes, cudaStream_t stream) {
  emulated::enqueue(stream, [=] {
    if (bytes > 0) std::memset(memory, byte, bytes);
    return true;
  });
  return state();
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemset(void* memory, int byte, std::size_t bytes) {
  return cudaMemsetAsync(memory, byte, bytes, nullptr);
}
