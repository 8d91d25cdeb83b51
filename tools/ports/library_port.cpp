// PATH.so: a library with the port interface, loaded by children of moeref (port_host/port_host.hpp).
#include <algorithm>
#include <map>
#include <memory>

#include "moeref/error.hpp"
#include "tools/port_host/port_host.hpp"
#include "tools/ports/host_processes.hpp"
#include "tools/ports/isolated_port.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;

class LibraryPort final : public IsolatedPort {
 public:
  LibraryPort(const fs::path& library, const PortSettings& settings, std::string_view name)
      : library_(library), settings_(settings), name_(name) {
    const HostProcesses& alone = start(1);
    try {
      capabilities_ = parse_capabilities(alone.port());
    } catch (const InputError& error) {
      throw InputError(library_.string() + ": " + error.what());
    }
    capabilities_.max_processes =
        std::min({capabilities_.max_processes, settings.processes, std::int64_t{kMostProcesses}});
  }

  std::string name() const override { return name_; }

 protected:
  RankOutcomes attempt(const RankShares& ranks, Poison poison) override {
    HostProcesses* processes = nullptr;
    try {
      processes = &start(ranks.size());
    } catch (const InputError& error) {
      const std::string finding = std::string("broke the ABI: cannot be loaded again: ") + error.what();
      return RankOutcomes(ranks.size(), {{}, Verdict::crashed, finding});
    }
    RankOutcomes outcomes = processes->make(ranks, poison);
    if (!processes->usable()) groups_.erase(ranks.size());
    return outcomes;
  }

  void end_processes() override { groups_.clear(); }

 private:
  HostProcesses& start(std::size_t ranks) {
    auto& group = groups_[ranks];
    if (!group) group = std::make_unique<HostProcesses>(library_, ranks, settings_);
    return *group;
  }

  fs::path library_;
  PortSettings settings_;
  std::string name_;
  std::map<std::size_t, std::unique_ptr<HostProcesses>> groups_;  ///< by how many make a call together
};

}  // namespace

std::unique_ptr<Port> make_library_port(const fs::path& library, const PortSettings& settings,
                                        std::string_view name) {
  if (!fs::exists(library)) throw InputError(library.string() + ": does not exist");
  if (fs::is_directory(library)) throw InputError(library.string() + ": is a folder: want a shared library");
  return std::make_unique<LibraryPort>(library, settings, name);
}

}  // namespace moeref
