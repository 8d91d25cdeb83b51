#include "tools/bench/cuda/device_timing.hpp"

namespace moeref::cuda::bench {
namespace {

class Events {
 public:
  explicit Events(std::size_t count) : events_(count, nullptr) {
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "cudaEventCreate");
  }
  Events(const Events&) = delete;
  ~Events() {
    for (cudaEvent_t event : events_)
      if (event) cudaEventDestroy(event);
  }
  void record(std::size_t i) { check(cudaEventRecord(events_[i]), "cudaEventRecord"); }
  double ms_before(std::size_t i) const {
    float ms = 0.0f;
    check(cudaEventElapsedTime(&ms, events_[i - 1], events_[i]), "cudaEventElapsedTime");
    return ms;
  }

 private:
  std::vector<cudaEvent_t> events_;
};

}  // namespace

std::vector<Times> time_in_turn(int repeat, const std::vector<Work>& works) {
  const std::size_t rounds = static_cast<std::size_t>(std::max(repeat, 1)), a_round = works.size() + 1;
  Events events(rounds * a_round);
  int call = 0;
  for (int i = 0; i < 3; ++i)
    for (const Work& work : works) work(call++);
  for (std::size_t round = 0; round < rounds; ++round) {
    events.record(round * a_round);
    for (std::size_t w = 0; w < works.size(); ++w) {
      works[w](call++);
      events.record(round * a_round + w + 1);
    }
  }
  check(cudaStreamSynchronize(nullptr), "timed runs");  // another stream's kernel may go on (BesideBlock)
  std::vector<Times> out;
  for (std::size_t w = 0; w < works.size(); ++w) {
    std::vector<double> times;
    for (std::size_t round = 0; round < rounds; ++round)
      times.push_back(events.ms_before(round * a_round + w + 1));
    std::sort(times.begin(), times.end());
    out.push_back({times[times.size() / 2], times.front(), times.back()});
  }
  return out;
}

double median_ms(int repeat, const Work& work) { return time_in_turn(repeat, {work}).front().median_ms; }

}  // namespace moeref::cuda::bench
