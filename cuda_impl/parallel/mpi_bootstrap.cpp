// Ranks as processes that mpirun or srun started. MPI carries what ranks tell each other on the host, never
// rows.
#include <mpi.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "moeref/cuda/bootstrap.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

void check_mpi(int status, const char* call) {
  if (status != MPI_SUCCESS) throw GroupError(std::string(call) + " failed with " + std::to_string(status));
}

class MpiBootstrap final : public Bootstrap {
 public:
  /// Owns `comm`: the library's own, so that its messages and its error handler are not the application's.
  explicit MpiBootstrap(MPI_Comm comm) : comm_(comm) {
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiBootstrap() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(const void* mine, std::size_t bytes, void* all) override {
    const int count = static_cast<int>(bytes);
    check_mpi(MPI_Allgather(mine, count, MPI_BYTE, all, count, MPI_BYTE, comm_), "MPI_Allgather");
  }
  std::shared_ptr<Bootstrap> split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
    return std::make_shared<MpiBootstrap>(part);
  }
  void abort(const char* why) noexcept override {
    std::fprintf(stderr, "rank %d: %s\n", rank_, why);
    MPI_Abort(comm_, 1);
  }
  bool leave() noexcept override { return MPI_Barrier(comm_) == MPI_SUCCESS; }  // an abort ends the job

 private:
  MPI_Comm comm_;
  int rank_ = 0, size_ = 0;
};

}  // namespace

std::shared_ptr<Bootstrap> mpi_world() {
  int initialized = 0;
  check_mpi(MPI_Initialized(&initialized), "MPI_Initialized");
  if (!initialized) {
    // An abort may come from any thread.
    int threads = MPI_THREAD_SINGLE;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &threads), "MPI_Init_thread");
    std::atexit([] {
      int finalized = 0;
      MPI_Finalized(&finalized);
      if (!finalized) MPI_Finalize();
    });
  }
  MPI_Comm host = MPI_COMM_NULL;
  int on_host = 0, devices = 0;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(host, &on_host), "MPI_Comm_rank");
  MPI_Comm_free(&host);
  check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  check(cudaSetDevice(on_host % devices), "cudaSetDevice");
  MPI_Comm world = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  return std::make_shared<MpiBootstrap>(world);
}

}  // namespace moeref::cuda
