// Memory shared with a port's process: one file for all its calls, mapped for one call.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "tools/ports/port_process.hpp"

namespace moeref {

class SharedMemory {
 public:
  SharedMemory() : file_(::memfd_create("moeref-port-tensors", MFD_CLOEXEC)) {}
  ~SharedMemory() { unmap(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int file() const { return file_.number(); }

  /// Makes the memory at least that large; its contents are lost.
  std::byte* of_size(std::size_t size) {
    unmap();
    const bool sized = ::ftruncate(file(), static_cast<off_t>(size)) == 0;
    void* data = sized ? ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file(), 0) : MAP_FAILED;
    if (data == MAP_FAILED) throw std::bad_alloc();
    size_ = size;
    populate(data, size);
    return data_ = static_cast<std::byte*>(data);
  }

  std::byte* data() const { return data_; }

 private:
  void unmap() {
    if (data_) ::munmap(data_, size_);
    data_ = nullptr;
  }

  FileDescriptor file_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace moeref
