#include "cuda_impl/parallel/peers.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "cuda_impl/parallel/agreement.hpp"
#include "cuda_impl/parallel/device_name.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

/// Tells processes apart: those of two containers may have one number on one host.
using Token = std::array<unsigned, 4>;

Token draw_token() {
  std::random_device entropy;
  return {entropy(), entropy(), entropy(), entropy()};
}
Token own_token() {
  static Token token = draw_token();
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { token = draw_token(); });  // a child is another process
  return token;
}

struct Identity {
  DeviceName name;
  Token process;
  int device;
};

Identity own_identity() {
  Identity out{};
  out.process = own_token();
  check(cudaGetDevice(&out.device), "cudaGetDevice");
  out.name = name_of_device(out.device);
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
  if (!mine.name.same_host(peer.name)) return Reach::none;
  if (mine.process == peer.process)
    return enable_access(mine.device, peer.device) ? Reach::process : Reach::none;
  int device = 0;
  if (cudaDeviceGetByPCIBusId(&device, peer.name.bus) != cudaSuccess) {
    cudaGetLastError();  // hidden from this process
    return Reach::none;
  }
  return enable_access(mine.device, device) ? Reach::same_host : Reach::none;
}

Placement placement_of(const std::vector<Identity>& all) {
  std::set<Token> processes;
  for (const Identity& i : all) processes.insert(i.process);
  if (processes.size() == 1) return Placement::threads;
  return processes.size() == all.size() ? Placement::processes : Placement::mixed;
}

/// Takes from each rank's reach what the other does not have.
void make_symmetric(Bootstrap& bootstrap, std::vector<Reach>& mine) {
  const std::size_t size = mine.size(), rank = static_cast<std::size_t>(bootstrap.rank());
  std::vector<Reach> all(size * size);
  bootstrap.all_gather(static_cast<const void*>(mine.data()), size, all.data());
  for (std::size_t p = 0; p < size; ++p)
    if (all[p * size + rank] == Reach::none) mine[p] = Reach::none;
}

struct Shared {
  char* pointer;
  cudaIpcMemHandle_t handle;
};
Shared share(const std::vector<Reach>& reach, char* mine) {
  Shared out{mine, {}};
  if (std::count(reach.begin(), reach.end(), Reach::same_host) > 0)
    check(cudaIpcGetMemHandle(&out.handle, mine), "cudaIpcGetMemHandle");
  return out;
}
cudaError_t open(void*& out, const Shared& theirs) {
  return cudaIpcOpenMemHandle(&out, theirs.handle, cudaIpcMemLazyEnablePeerAccess);
}

/// What cannot be opened is out of reach.
void try_handles(Bootstrap& bootstrap, const std::string& group, std::vector<Reach>& reach) {
  std::unique_ptr<void, decltype(&cudaFree)> memory(nullptr, &cudaFree);
  const std::vector<Shared> all = agree(bootstrap, group, [&] {
    void* mine = nullptr;
    check(cudaMalloc(&mine, 256), "cudaMalloc");
    memory.reset(mine);
    return share(reach, static_cast<char*>(mine));
  });
  for (std::size_t p = 0; p < reach.size(); ++p) {
    if (reach[p] != Reach::same_host) continue;
    void* opened = nullptr;
    if (open(opened, all[p]) == cudaSuccess) {
      cudaIpcCloseMemHandle(opened);
    } else {
      cudaGetLastError();  // an answer, no failure
      reach[p] = Reach::none;
    }
  }
  make_symmetric(bootstrap, reach);  // and nobody has it open when it is released
}

}  // namespace

Peers find_peers(Bootstrap& bootstrap, const std::string& group) {
  const std::vector<Identity> all = agree(bootstrap, group, own_identity);
  const std::size_t rank = static_cast<std::size_t>(bootstrap.rank());
  Peers out{std::vector<Reach>(all.size()), placement_of(all)};
  agree(bootstrap, group, [&] {
    for (std::size_t p = 0; p < all.size(); ++p)
      out.reach[p] = p == rank ? Reach::process : reach_from(all[rank], all[p]);
  });
  make_symmetric(bootstrap, out.reach);
  if (out.placement != Placement::threads) try_handles(bootstrap, group, out.reach);
  return out;
}

PeerMemory map_peers(Bootstrap& bootstrap, const std::string& group, const std::vector<Reach>& reach,
                     char* mine) {
  const std::vector<Shared> all = agree(bootstrap, group, [&] { return share(reach, mine); });
  PeerMemory out{std::vector<char*>(reach.size(), nullptr), {}};
  try {
    agree(bootstrap, group, [&] {
      for (std::size_t p = 0; p < reach.size(); ++p) {
        if (reach[p] == Reach::process) out.of[p] = all[p].pointer;
        if (reach[p] != Reach::same_host) continue;
        void* opened = nullptr;
        check(open(opened, all[p]), "cudaIpcOpenMemHandle");
        out.of[p] = static_cast<char*>(opened);
        out.to_release.push_back(opened);
      }
    });
  } catch (const std::exception&) {
    for (void* opened : out.to_release) cudaIpcCloseMemHandle(opened);
    bootstrap.meet();  // before a rank releases what another had open
    throw;
  }
  return out;
}

}  // namespace moeref::cuda
