#include "tools/bench/cuda/device_timing.hpp"

#include <chrono>
#include <cmath>

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

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

std::vector<Times> time_in_turn(int repeat, const std::vector<Work>& works, double heat_seconds) {
  const std::size_t rounds = static_cast<std::size_t>(std::max(repeat, 1)), a_round = works.size() + 1;
  Events events(rounds * a_round);
  int call = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto is_hot = [&] {
    check(cudaStreamSynchronize(nullptr), "warm-up");
    return std::chrono::steady_clock::now() - begin >= std::chrono::duration<double>(heat_seconds);
  };
  for (int i = 0; i < 3 || !is_hot(); ++i)
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
    const auto half = times.begin() + static_cast<std::ptrdiff_t>((times.size() + 1) / 2);
    const double earlier = median({times.begin(), half}),
                 later = half == times.end() ? earlier : median({half, times.end()});
    const auto [least, most] = std::minmax_element(times.begin(), times.end());
    out.push_back({median(times), *least, *most, std::abs(later / earlier - 1.0)});
  }
  return out;
}

double once_ms(const Work& work, int call) {
  Events events(2);
  events.record(0);
  work(call);
  events.record(1);
  check(cudaStreamSynchronize(nullptr), "timed run");
  return events.ms_before(1);
}

double median_ms(int repeat, const Work& work) { return time_in_turn(repeat, {work}).front().median_ms; }

}  // namespace moeref::cuda::bench
