#include "cuda_impl/parallel/nccl_passes.hpp"

#include <utility>

#include "cuda_impl/parallel/capture.hpp"

namespace moeref::cuda {
namespace {

bool has_come(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
  return status == cudaSuccess;
}

}  // namespace

NcclPasses::~NcclPasses() {
  for (const Pass& pass : pending_) idle_.insert(idle_.end(), {pass.begin, pass.end});
  if (begun_) idle_.push_back(begun_);
  for (const cudaEvent_t event : idle_) cudaEventDestroy(event);
}

cudaEvent_t NcclPasses::take_event() {
  if (!idle_.empty()) {
    const cudaEvent_t event = idle_.back();
    idle_.pop_back();
    return event;
  }
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return event;
}

void NcclPasses::begin(cudaStream_t stream) {
  if (is_capturing(stream)) {
    captured_ = true;
    return;
  }
  drop_ended();
  begun_ = take_event();
  check(cudaEventRecord(begun_, stream), "cudaEventRecord");
}

void NcclPasses::end(cudaStream_t stream) {
  if (!begun_) return;
  const cudaEvent_t ended = take_event();
  pending_.push_back({std::exchange(begun_, nullptr), ended});
  check(cudaEventRecord(ended, stream), "cudaEventRecord");
}

void NcclPasses::drop_ended() {
  while (!pending_.empty() && has_come(pending_.front().end)) {
    idle_.insert(idle_.end(), {pending_.front().begin, pending_.front().end});
    pending_.pop_front();
    ++ended_;
  }
}

bool NcclPasses::all_ended() {
  drop_ended();
  return pending_.empty();
}

std::optional<std::uint64_t> NcclPasses::under_way() {
  drop_ended();
  if (pending_.empty() || !has_come(pending_.front().begin)) return std::nullopt;
  return ended_;
}

}  // namespace moeref::cuda
