#include "tools/port_host/loaded_port.hpp"

#include <dlfcn.h>
#include <fmt/core.h>

#include <cstddef>
#include <cstdint>

#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

json list_of(const char* const* texts) {
  json out = json::array();
  for (; texts && *texts; ++texts) out.push_back(*texts);
  return out;
}

/// The table as version 1 began; what follows is read as far as the port's own struct_size goes.
constexpr std::size_t kFirstTable = offsetof(moeref_port, max_processes);

/// The field of this size lies within the port's own table.
bool reaches(const moeref_port& port, std::size_t offset, std::size_t size) {
  return port.struct_size >= offset + size;
}

std::int32_t max_processes_of(const moeref_port& port) {
  return reaches(port, kFirstTable, sizeof port.max_processes) ? port.max_processes : 0;
}

bool batch_invariant(const moeref_port& port) {
  return reaches(port, offsetof(moeref_port, batch_invariant), sizeof port.batch_invariant) &&
         port.batch_invariant != 0;
}

std::string text_of(const char* text) { return text ? text : ""; }

void check(const moeref_port* port) {
  if (!port)
    throw InputError(
        fmt::format("does not speak version {} of the port interface: moeref_port_entry gave NULL",
                    MOEREF_PORT_ABI_VERSION));
  if (port->struct_size < kFirstTable)
    throw InputError(
        fmt::format("its table has struct_size {}: want at least {}, the first sizeof(moeref_port) of "
                    "version {}",
                    port->struct_size, kFirstTable, MOEREF_PORT_ABI_VERSION));
  if (port->abi_version != MOEREF_PORT_ABI_VERSION)
    throw InputError(
        fmt::format("its table has abi_version {}: want {}", port->abi_version, MOEREF_PORT_ABI_VERSION));
  if (!port->name || !*port->name) throw InputError("its table has no name");
  if (!port->run) throw InputError("its table has no run()");
  if (!port->components || !*port->components) throw InputError("its table names no components");
  if (!port->dtypes || !*port->dtypes) throw InputError("its table names no dtypes");
  if ((port->passes & MOEREF_FORWARD) == 0 || (port->passes & ~(MOEREF_FORWARD | MOEREF_BACKWARD)) != 0)
    throw InputError(fmt::format(
        "its table has passes {}: want MOEREF_FORWARD, with MOEREF_BACKWARD or without", port->passes));
  if (port->device != kDLCPU && port->device != kDLCUDA)
    throw InputError(fmt::format("its table has device {}: want kDLCPU or kDLCUDA", port->device));
  if (port->ties > MOEREF_TIES_LOWEST_ID)
    throw InputError(
        fmt::format("its table has ties {}: want MOEREF_TIES_OPEN or MOEREF_TIES_LOWEST_ID", port->ties));
  if (port->max_ranks < 1)
    throw InputError(fmt::format("its table has max_ranks {}: want 1 or more", port->max_ranks));
  if (max_processes_of(*port) < 0)
    throw InputError(
        fmt::format("its table has max_processes {}: want 0 (none) or more", port->max_processes));
}

}  // namespace

const moeref_port* load_port(const std::string& library) {
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw InputError("cannot be loaded: " + text_of(::dlerror()));
  void* symbol = ::dlsym(handle, "moeref_port_entry");
  if (!symbol) throw InputError("has no function moeref_port_entry, which a port exports (moeref/port.h)");
  const auto entry = reinterpret_cast<moeref_port_entry_function>(symbol);
  const moeref_port* port = entry(MOEREF_PORT_ABI_VERSION);
  check(port);
  return port;
}

moeref_bench_function bench_of(const moeref_port& port) {
  return reaches(port, offsetof(moeref_port, bench), sizeof port.bench) ? port.bench : nullptr;
}

std::string init_generator_of(const moeref_port& port) {
  const std::string own = "own";
  if (!reaches(port, offsetof(moeref_port, init_generator), sizeof port.init_generator)) return own;
  return text_of(port.init_generator).empty() ? own : port.init_generator;
}

std::string products_of(const moeref_port& port) {
  const std::string plain = "float32";
  if (!reaches(port, offsetof(moeref_port, products), sizeof port.products)) return plain;
  return text_of(port.products).empty() ? plain : port.products;
}

json conventions_of(const moeref_port& port) {
  const bool there = reaches(port, offsetof(moeref_port, conventions), sizeof port.conventions);
  return list_of(there ? port.conventions : nullptr);
}

json describe(const moeref_port& port) {
  json passes = json::array({"forward"});
  if (port.passes & MOEREF_BACKWARD) passes.push_back("backward");
  return {{"name", port.name},
          {"version", text_of(port.version)},
          {"components", list_of(port.components)},
          {"passes", passes},
          {"dtypes", list_of(port.dtypes)},
          {"stages", list_of(port.stages)},
          {"ties", port.ties == MOEREF_TIES_LOWEST_ID ? "lowest_id" : "open"},
          {"accumulation", text_of(port.accumulation)},
          {"storage", text_of(port.storage)},
          {"deterministic", port.deterministic != 0},
          {"batch_invariant", batch_invariant(port)},
          {"init_generator", init_generator_of(port)},
          {"products", products_of(port)},
          {"conventions", conventions_of(port)},
          {"max_ranks", port.max_ranks},
          {"max_processes", max_processes_of(port)},
          {"bench", bench_of(port) != nullptr},
          {"device", port.device == kDLCUDA ? "cuda" : "cpu"}};
}

}  // namespace moeref
