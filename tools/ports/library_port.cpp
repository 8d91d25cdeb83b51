// PATH.so: a library with the port interface, loaded by a child of moeref (port_abi/port_host.hpp).
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "port_abi/full_config.hpp"
#include "ports/conversation.hpp"
#include "ports/isolated_port.hpp"

namespace moeref {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Memory shared with the child: one file for all its calls, mapped for one call.
class SharedMemory {
 public:
  SharedMemory() : file_(::memfd_create("moeref-port-tensors", MFD_CLOEXEC)) {}
  ~SharedMemory() { unmap(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int file() const { return file_.number(); }

  /// Of at least that size; what was there is gone.
  std::byte* of_size(std::size_t size) {
    unmap();
    const bool sized = ::ftruncate(file(), static_cast<off_t>(size)) == 0;
    void* data = sized ? ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file(), 0) : MAP_FAILED;
    if (data == MAP_FAILED) throw std::bad_alloc();
    size_ = size;
    return data_ = static_cast<std::byte*>(data);
  }

 private:
  void unmap() {
    if (data_) ::munmap(data_, size_);
    data_ = nullptr;
  }

  FileDescriptor file_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

json request_of(const Call& call, const CallBlock& block) {
  const bool mlp = call.component == Component::mlp;
  json tensors = json::array();
  for (const BlockTensor& tensor : block.tensors())
    tensors.push_back({{"name", tensor.name},
                       {"dtype", name(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"offset", tensor.offset},
                       {"output", tensor.output},
                       {"optional", tensor.optional}});
  const json config =
      mlp ? full_json(parse_mlp_config(call.config)) : full_json(parse_moe_config(call.config));
  return {{"request", "run"},
          {"size", block.size()},
          {"component", name(call.component)},
          {"backward", call.backward},
          {"config", config.dump()},
          {"options", full_json(parse_call_options(call.options)).dump()},
          {"tensors", std::move(tensors)}};
}

class LibraryPort final : public IsolatedPort {
 public:
  LibraryPort(const fs::path& library, const PortSettings& settings)
      : library_(library), settings_(settings) {
    start();
  }

  std::string name() const override { return library_.string(); }

 protected:
  PortOutcome attempt(const Call& call, Poison poison) override {
    const CallBlock block(call, port_outputs(call, capabilities_.stages));
    std::byte* memory = memory_.of_size(block.size());
    block.fill(memory, call, poison);
    if (!talk_) try {
        start();
      } catch (const InputError& error) {
        return {{},
                Verdict::crashed,
                std::string("broke the ABI: cannot be loaded a second time: ") + error.what()};
      }
    PortOutcome outcome = talk_->ask(request_of(call, block));
    const bool computed = outcome.verdict == Verdict::pass;
    // What it did to memory counts even where it then refused or crashed, and may be the reason.
    const auto damage = block.overwritten(memory), changed = block.changed_input(memory, call);
    if (damage) add_finding(outcome, Verdict::fail, "out-of-bounds write: " + *damage);
    if (changed) add_finding(outcome, Verdict::fail, "changed input: " + *changed + " is not what it was");
    if (computed) outcome.results = block.results(memory);
    // Whatever else it wrote to may be its own memory: no further call in that process.
    if (damage || !talk_->running()) end_process();
    return outcome;
  }

  void end_process() override { talk_.reset(); }

 private:
  void start() {
    // An absolute path: dlopen searches the system's folders for a name without a slash.
    talk_ = std::make_unique<Conversation>(
        PortProcess::Command{settings_.host.string(),
                             {"moeref", "port-host", fs::absolute(library_).string()},
                             true,
                             memory_.file()},
        settings_.limit);
    const json said = talk_->hear_first(library_.string(), "while it was being loaded");
    if (said.value("status", "") != "ok")
      throw InputError(library_.string() + ": " + said.value("reason", "is no port"));
    try {
      capabilities_ = parse_capabilities(said.at("port"));
    } catch (const InputError& error) {
      throw InputError(library_.string() + ": " + error.what());
    }
  }

  fs::path library_;
  PortSettings settings_;
  SharedMemory memory_;
  std::unique_ptr<Conversation> talk_;
};

}  // namespace

std::unique_ptr<Port> make_library_port(const fs::path& library, const PortSettings& settings) {
  if (!fs::exists(library)) throw InputError(library.string() + ": does not exist");
  if (fs::is_directory(library)) throw InputError(library.string() + ": is a folder: want a shared library");
  return std::make_unique<LibraryPort>(library, settings);
}

}  // namespace moeref
