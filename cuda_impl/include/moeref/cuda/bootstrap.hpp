// How the ranks of a run find each other: bytes between hosts, before anything is exchanged between devices.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>

namespace moeref::cuda {

/// A rank that has ended, is late or cannot be reached. The message names it.
class GroupError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One rank's view of a set of ranks. All ranks call the same functions in the same order.
class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// all [size * bytes] = `mine` [bytes] of every rank in their order. Throws GroupError when a rank has
  /// ended.
  virtual void all_gather(const void* mine, std::size_t bytes, void* all) = 0;

  /// The ranks that give the same color, in the order of their keys, equal keys in that of their ranks.
  virtual std::shared_ptr<Bootstrap> split(int color, int key) = 0;

  /// This rank goes on no more: others that wait for it, now or later, get a GroupError. May be called from
  /// any thread.
  virtual void abort(const char* why) noexcept = 0;

  /// This rank stores no more into the others' memory: waits, also after an abort, until all have called it
  /// as often. False when one did not come in time, and may still store; later calls then do not wait.
  virtual bool leave() noexcept = 0;

  template <class T>
  void all_gather(const T& mine, T* all) {
    all_gather(static_cast<const void*>(&mine), sizeof(T), all);
  }
  /// Returns when all ranks have called it.
  void meet();
};

/// Calls body(world) in one thread per rank, with rank r's current device set to devices[r % devices]; fewer
/// devices than ranks share them. Returns when all have ended; when some threw, the others are aborted and
/// what ended the run is thrown again. `timeout`: how long a rank waits for another one on the host, once all
/// have their devices.
void run_ranks(int ranks, const std::function<void(const std::shared_ptr<Bootstrap>&)>& body,
               std::chrono::milliseconds timeout = std::chrono::minutes(10));

#ifdef MOEREF_CUDA_MPI
/// The ranks of MPI_COMM_WORLD, one process each, as mpirun or srun started them; the current device becomes
/// the process's number on its host, modulo the devices. Collective over MPI_COMM_WORLD, of which it takes a
/// copy: messages of the application stay apart. Calls MPI_Init_thread if MPI is not initialised, with
/// MPI_THREAD_MULTIPLE; an application that does so itself with less calls this and its groups from one
/// thread at a time. An abort ends the whole MPI job, as MPI does.
std::shared_ptr<Bootstrap> mpi_world();
#endif

}  // namespace moeref::cuda
