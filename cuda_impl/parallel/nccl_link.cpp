#include "cuda_impl/parallel/nccl_link.hpp"

#ifdef MOEREF_CUDA_NCCL
#include <nccl.h>

#include <vector>

#include "cuda_impl/parallel/agreement.hpp"
#include "cuda_impl/parallel/device_name.hpp"
#endif

namespace moeref::cuda {

#ifndef MOEREF_CUDA_NCCL

std::unique_ptr<NcclLink> NcclLink::create(Bootstrap&, const std::string& group) {
  throw GroupError("in the " + group + " a rank's memory is out of reach, and moeref was built without NCCL");
}

#else

namespace {

void check_nccl(ncclResult_t status, const char* call) {
  if (status != ncclSuccess && status != ncclInProgress)
    throw GroupError(std::string(call) + ": " + ncclGetErrorString(status));
}

/// What ranks tell each other before there is a communicator; the first one's id is that of all.
struct Start {
  ncclUniqueId id;
  DeviceName device;
};

/// On all ranks alike. NCCL itself gives an error to those that share a device, while the others wait for
/// them without an end.
void refuse_shared_devices(const std::vector<Start>& ranks, const std::string& group) {
  for (std::size_t r = 0; r < ranks.size(); ++r)
    for (std::size_t p = 0; p < r; ++p)
      if (ranks[p].device == ranks[r].device)
        throw GroupError("ranks " + std::to_string(p) + " and " + std::to_string(r) + " of the " + group +
                         " share a device: NCCL wants one for each");
}

class Link final : public NcclLink {
 public:
  Link(Bootstrap& bootstrap, const std::string& group) {
    const std::vector<Start> ranks = agree(bootstrap, group, [&] {
      Start mine{{}, name_of_current_device()};
      if (bootstrap.rank() == 0) check_nccl(ncclGetUniqueId(&mine.id), "ncclGetUniqueId");
      return mine;
    });
    refuse_shared_devices(ranks, group);
    agree(bootstrap, group, [&] {
      check_nccl(ncclCommInitRank(&comm_, bootstrap.size(), ranks[0].id, bootstrap.rank()),
                 "ncclCommInitRank");
    });
  }
  ~Link() override {
    if (comm_) ncclCommDestroy(comm_);
  }

  void begin() override { check_nccl(ncclGroupStart(), "ncclGroupStart"); }
  void send(const void* data, std::size_t bytes, int peer, cudaStream_t stream) override {
    check_nccl(ncclSend(data, bytes, ncclChar, peer, alive(), stream), "ncclSend");
  }
  void receive(void* data, std::size_t bytes, int peer, cudaStream_t stream) override {
    check_nccl(ncclRecv(data, bytes, ncclChar, peer, alive(), stream), "ncclRecv");
  }
  void end() override { check_nccl(ncclGroupEnd(), "ncclGroupEnd"); }

  std::string failure() override {
    if (!comm_) return "the NCCL communicator was aborted";
    ncclResult_t status = ncclSuccess;
    if (ncclCommGetAsyncError(comm_, &status) != ncclSuccess) return "ncclCommGetAsyncError failed";
    return status == ncclSuccess || status == ncclInProgress ? "" : ncclGetErrorString(status);
  }
  void abort() noexcept override {
    if (comm_) ncclCommAbort(comm_);
    comm_ = nullptr;
  }

 private:
  ncclComm_t alive() const {
    if (!comm_) throw GroupError("the NCCL communicator was aborted");
    return comm_;
  }
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<NcclLink> NcclLink::create(Bootstrap& bootstrap, const std::string& group) {
  return std::make_unique<Link>(bootstrap, group);
}

#endif

}  // namespace moeref::cuda
