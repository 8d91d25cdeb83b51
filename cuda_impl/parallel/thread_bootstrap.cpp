// Ranks as threads of this process.
#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <exception>
#include <latch>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_impl/parallel/rank_names.hpp"
#include "moeref/cuda/bootstrap.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

void Bootstrap::meet() {
  std::vector<char> all(static_cast<std::size_t>(size()));
  all_gather('m', all.data());
}

namespace {

/// What the ranks of one set share.
class Meeting {
 public:
  Meeting(int size, std::chrono::milliseconds timeout)
      : size_(size),
        timeout_(timeout),
        here_(static_cast<std::size_t>(size), 0),
        left_(static_cast<std::size_t>(size), 0) {}
  int size() const { return size_; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  void all_gather(int rank, const void* mine, std::size_t bytes, void* all) {
    std::unique_lock lock(mutex_);
    if (arrived_ == 0) bytes_.resize(bytes * static_cast<std::size_t>(size_)), each_ = bytes;
    throw_if_broken();
    if (bytes != each_)
      throw GroupError("rank " + std::to_string(rank) + " gathers " + std::to_string(bytes) +
                       " bytes, others " + std::to_string(each_));
    std::memcpy(bytes_.data() + static_cast<std::size_t>(rank) * bytes, mine, bytes);
    wait(rank, lock);  // all have written
    std::memcpy(all, bytes_.data(), bytes_.size());
    wait(rank, lock);  // all have read
  }

  bool leave(int rank) {
    std::unique_lock lock(mutex_);
    const int times = ++left_[static_cast<std::size_t>(rank)];
    change_.notify_all();
    if (one_stays_) return false;
    const bool all_left = change_.wait_for(lock, timeout_, [&] {
      return std::all_of(left_.begin(), left_.end(), [&](int other) { return other >= times; });
    });
    one_stays_ = one_stays_ || !all_left;
    return all_left;
  }

  void abort(int rank, const std::string& why) {
    const std::lock_guard lock(mutex_);
    if (broken_.empty()) broken_ = why, broken_by_ = rank;
    change_.notify_all();
  }
  /// The rank that gave up first, whose exception is the reason for the others'; none: -1.
  int broken_by() const { return broken_by_; }

 private:
  void throw_if_broken() const {
    if (!broken_.empty()) throw GroupError(broken_);
  }
  void wait(int rank, std::unique_lock<std::mutex>& lock) {
    const std::uint64_t round = round_;
    here_[static_cast<std::size_t>(rank)] = 1;
    if (++arrived_ == size_) {
      std::fill(here_.begin(), here_.end(), 0);
      arrived_ = 0, ++round_;
      change_.notify_all();
      return;
    }
    if (!change_.wait_for(lock, timeout_, [&] { return round_ != round || !broken_.empty(); })) {
      broken_ = rank_names(size_, [&](int r) { return !here_[static_cast<std::size_t>(r)]; }) +
                " did not come within " + std::to_string(timeout_.count()) + " ms";
      broken_by_ = rank;
      change_.notify_all();
    }
    if (round_ == round) throw_if_broken();
  }

  const int size_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable change_;
  int arrived_ = 0;
  std::uint64_t round_ = 0;
  std::size_t each_ = 0;
  std::vector<char> bytes_;
  std::string broken_;
  int broken_by_ = -1;
  std::vector<char> here_;  // which ranks wait in this round
  std::vector<int> left_;   // how often each rank has
  bool one_stays_ = false;  // a rank that did not leave in time: nobody waits for it again
};

class ThreadBootstrap final : public Bootstrap {
 public:
  ThreadBootstrap(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }
  void all_gather(const void* mine, std::size_t bytes, void* all) override {
    meeting_->all_gather(rank_, mine, bytes, all);
  }

  std::shared_ptr<Bootstrap> split(int color, int key) override {
    struct Place {
      int color, key, rank;
    };
    const Place mine{color, key, rank_};
    std::vector<Place> all(static_cast<std::size_t>(size()));
    Bootstrap::all_gather(mine, all.data());
    std::vector<std::pair<int, int>> members;  // key, rank
    for (const Place& p : all)
      if (p.color == color) members.emplace_back(p.key, p.rank);
    std::sort(members.begin(), members.end());
    // The first member makes what they share; the others copy its pointer while it is held.
    const std::pair<int, int> me{key, rank_};
    const int own = static_cast<int>(std::find(members.begin(), members.end(), me) - members.begin());
    std::shared_ptr<Meeting> made;
    if (own == 0) made = std::make_shared<Meeting>(static_cast<int>(members.size()), meeting_->timeout());
    std::vector<const std::shared_ptr<Meeting>*> made_by(all.size());
    Bootstrap::all_gather<const std::shared_ptr<Meeting>*>(&made, made_by.data());
    const std::shared_ptr<Meeting> shared = *made_by[static_cast<std::size_t>(members.front().second)];
    meet();
    return split_.emplace_back(std::make_shared<ThreadBootstrap>(shared, own));
  }

  bool leave() noexcept override { return meeting_->leave(rank_); }
  void abort(const char* why) noexcept override {
    try {
      meeting_->abort(rank_, why);
      for (const auto& part : split_) part->abort(why);
    } catch (...) {  // no memory for the reason: the others find out when they have waited long enough
    }
  }

 private:
  std::shared_ptr<Meeting> meeting_;
  int rank_;
  std::vector<std::shared_ptr<Bootstrap>> split_;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(const std::shared_ptr<Bootstrap>&)>& body,
               std::chrono::milliseconds timeout) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  if (ranks < 1) throw ArgumentError("ranks is " + std::to_string(ranks) + ": want 1 or more");
  const auto meeting = std::make_shared<Meeting>(ranks, timeout);
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(ranks));
  // A device that others use, too, may take half a minute, which is no rank's lateness.
  std::latch have_devices(ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      const auto world = std::make_shared<ThreadBootstrap>(meeting, r);
      try {
        const cudaError_t device = cudaSetDevice(r % devices);
        have_devices.arrive_and_wait();
        check(device, "cudaSetDevice");
        body(world);
      } catch (const std::exception& e) {
        failures[static_cast<std::size_t>(r)] = std::current_exception();
        world->abort(("rank " + std::to_string(r) + " failed: " + e.what()).c_str());
      }
    });
  for (std::thread& t : threads) t.join();
  if (const int by = meeting->broken_by(); by >= 0)
    if (const auto& reason = failures[static_cast<std::size_t>(by)]) std::rethrow_exception(reason);
  for (const auto& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace moeref::cuda
