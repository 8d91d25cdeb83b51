#include "cuda_impl/parallel/nccl_link.hpp"

#ifdef MOEREF_CUDA_NCCL
#include <nccl.h>

#include <vector>

#include "cuda_impl/parallel/agreement.hpp"
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

class Link final : public NcclLink {
 public:
  Link(Bootstrap& bootstrap, const std::string& group) {
    const std::vector<ncclUniqueId> ids = agree(bootstrap, group, [&] {
      ncclUniqueId mine{};
      if (bootstrap.rank() == 0) check_nccl(ncclGetUniqueId(&mine), "ncclGetUniqueId");
      return mine;
    });
    agree(bootstrap, group, [&] {
      check_nccl(ncclCommInitRank(&comm_, bootstrap.size(), ids[0], bootstrap.rank()), "ncclCommInitRank");
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
