#include "golden/format/temporary_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>

#include "moeref/error.hpp"

namespace moeref {

namespace fs = std::filesystem;

TemporaryFile::TemporaryFile(fs::path target) : target_(std::move(target)) {
  // Two processes, or two files of one process, never share a name.
  static std::atomic<int> count{0};
  path_ = target_;
  path_ += ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
  const int file = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) throw InputError("cannot write here: " + std::generic_category().message(errno));
  ::close(file);
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove(path_, ignored);
}

void TemporaryFile::commit() {
  std::error_code error;
  fs::rename(path_, target_, error);
  if (error) throw InputError("cannot write here: " + error.message());
  path_.clear();
}

}  // namespace moeref
