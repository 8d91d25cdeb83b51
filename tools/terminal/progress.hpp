// A progress bar on stderr while a loop over cases runs; nothing where stderr is no terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>

namespace moeref {

/// May be told of progress from several threads. The line is wiped when it goes, so that what is printed next
/// starts clean.
class Progress {
 public:
  Progress(std::string what, std::size_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows what is being worked on.
  void start(std::string_view item);

  /// One item is done.
  void finish();

 private:
  void draw(bool always);

  std::mutex mutex_;
  std::string what_, item_;
  std::size_t total_, done_ = 0;
  bool shown_;
  std::chrono::steady_clock::time_point began_, drawn_;
};

/// "validate [######..............] 37/119  4 s  gate__sigmoid", cut to the width.
std::string progress_line(std::string_view what, std::size_t done, std::size_t total, double seconds,
                          std::string_view item, int width);

}  // namespace moeref
