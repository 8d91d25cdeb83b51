#include "cuda_impl/parallel/peers.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

struct Identity {
  char host[64], bus[32];
  int process, device;
};

/// Differs between machines that run at the same time; containers of one machine have the same.
std::string host_name() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  if (!id.empty()) return id;
  char name[64] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

Identity own_identity() {
  Identity out{};
  std::strncpy(out.host, host_name().c_str(), sizeof out.host - 1);
  out.process = static_cast<int>(getpid());
  check(cudaGetDevice(&out.device), "cudaGetDevice");
  check(cudaDeviceGetPCIBusId(out.bus, sizeof out.bus, out.device), "cudaDeviceGetPCIBusId");
  return out;
}

bool enable_access(int from, int to) {
  if (from == to) return true;
  int can = 0;
  check(cudaDeviceCanAccessPeer(&can, from, to), "cudaDeviceCanAccessPeer");
  if (!can) return false;
  const cudaError_t status = cudaDeviceEnablePeerAccess(to, 0);
  if (status == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();  // not a failure: forget it
    return true;
  }
  check(status, "cudaDeviceEnablePeerAccess");
  return true;
}

Reach reach_from(const Identity& mine, const Identity& peer) {
  if (std::strcmp(mine.host, peer.host) != 0) return Reach::none;
  if (mine.process == peer.process)
    return enable_access(mine.device, peer.device) ? Reach::process : Reach::none;
  int device = 0;
  if (cudaDeviceGetByPCIBusId(&device, peer.bus) != cudaSuccess) {
    cudaGetLastError();  // hidden from this process
    return Reach::none;
  }
  return enable_access(mine.device, device) ? Reach::same_host : Reach::none;
}

}  // namespace

std::vector<Reach> reach_of_peers(Bootstrap& bootstrap) {
  const auto size = static_cast<std::size_t>(bootstrap.size()),
             rank = static_cast<std::size_t>(bootstrap.rank());
  std::vector<Identity> all(size);
  bootstrap.all_gather(own_identity(), all.data());
  std::vector<Reach> mine(size), matrix(size * size);
  for (std::size_t p = 0; p < size; ++p) mine[p] = p == rank ? Reach::process : reach_from(all[rank], all[p]);
  bootstrap.all_gather(static_cast<const void*>(mine.data()), size, matrix.data());
  for (std::size_t p = 0; p < size; ++p)
    if (matrix[p * size + rank] == Reach::none) mine[p] = Reach::none;
  return mine;
}

bool all_are_threads(Bootstrap& bootstrap) {
  std::vector<Identity> all(static_cast<std::size_t>(bootstrap.size()));
  bootstrap.all_gather(own_identity(), all.data());
  return std::all_of(all.begin(), all.end(), [&](const Identity& i) {
    return std::strcmp(i.host, all[0].host) == 0 && i.process == all[0].process;
  });
}

PeerMemory map_peers(Bootstrap& bootstrap, const std::vector<Reach>& reach, char* mine) {
  struct Handle {
    char* pointer;
    cudaIpcMemHandle_t handle;
    bool has_handle;
  };
  Handle own{mine, {}, false};
  for (const Reach r : reach) own.has_handle = own.has_handle || r == Reach::same_host;
  if (own.has_handle) check(cudaIpcGetMemHandle(&own.handle, mine), "cudaIpcGetMemHandle");
  std::vector<Handle> all(reach.size());
  bootstrap.all_gather(own, all.data());
  PeerMemory out{std::vector<char*>(reach.size(), nullptr), {}};
  for (std::size_t p = 0; p < reach.size(); ++p) {
    if (reach[p] == Reach::process) out.of[p] = all[p].pointer;
    if (reach[p] != Reach::same_host) continue;
    void* opened = nullptr;
    check(cudaIpcOpenMemHandle(&opened, all[p].handle, cudaIpcMemLazyEnablePeerAccess),
          "cudaIpcOpenMemHandle");
    out.of[p] = static_cast<char*>(opened);
    out.to_release.push_back(opened);
  }
  return out;
}

}  // namespace moeref::cuda
