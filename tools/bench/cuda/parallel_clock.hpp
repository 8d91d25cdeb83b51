// Times of what ranks do together: medians of the slowest rank's, from a meeting of all ranks on. The host is
// ahead by then, as it is in training, so that nothing waits for a launch.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "moeref/cuda/group.hpp"
#include "tools/bench/cuda/device_timing.hpp"

namespace moeref::cuda::bench {

/// One rank's stream, and medians over all ranks of what is queued there. All functions are collective.
class ParallelClock {
 public:
  ParallelClock(Bootstrap& world, Group& group, int repeat) : world(world), group(group), repeat_(repeat) {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    for (cudaEvent_t& e : events_) check(cudaEventCreate(&e), "cudaEventCreate");
  }
  ~ParallelClock() {
    cudaStreamSynchronize(stream);
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
    cudaStreamDestroy(stream);
  }

  static constexpr unsigned kHeld = 1500;  // microseconds

  template <class F>
  double median_ms(const F& run) {
    std::vector<double> times;
    world.meet();  // nobody allocates or frees any more, which may wait for a peer's device
    for (int i = -3; i < repeat_; ++i) {
      hold(stream, kHeld);
      group.meet(stream);
      check(cudaEventRecord(events_[0], stream), "cudaEventRecord");
      run();
      check(cudaEventRecord(events_[1], stream), "cudaEventRecord");
      group.synchronize(stream);
      float own = 0;
      check(cudaEventElapsedTime(&own, events_[0], events_[1]), "cudaEventElapsedTime");
      std::vector<float> all(static_cast<std::size_t>(world.size()));
      world.all_gather(own, all.data());
      if (i >= 0) times.push_back(*std::max_element(all.begin(), all.end()));
    }
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
  }

  /// Of `run` repeated `times` times in one CUDA graph, so that nothing waits for the host.
  template <class F>
  double median_ms_in_graph(int times, const F& run) {
    run();  // kernels are loaded
    group.synchronize(stream);
    world.meet();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    for (int i = 0; i < times; ++i) run();
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    const double ms = median_ms([&] { check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"); });
    check(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return ms / times;
  }

  cudaStream_t stream = nullptr;
  Bootstrap& world;
  Group& group;

 private:
  int repeat_;
  std::array<cudaEvent_t, 2> events_{};
};

}  // namespace moeref::cuda::bench
