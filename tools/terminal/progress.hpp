// A progress bar on stderr while a loop over cases runs; a line now and then where stderr is no terminal.
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
  /// Where there is no terminal, a line every so many seconds.
  Progress(std::string what, std::size_t total, double seconds_between_lines = 30.0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows what is being worked on.
  void start(std::string_view item);

  /// One item is done.
  void finish();

 private:
  void draw(bool always);
  /// "validate: 37 of 119 after 60 s, gate__sigmoid", for logs of long runs.
  void log(double seconds);

  std::mutex mutex_;
  std::string what_, item_;
  std::size_t total_, done_ = 0;
  bool shown_;
  double between_lines_, logged_ = 0.0;  ///< seconds, and after the beginning
  std::chrono::steady_clock::time_point began_, drawn_;
};

/// "validate [######..............] 37/119  4 s  gate__sigmoid", cut to the width.
std::string progress_line(std::string_view what, std::size_t done, std::size_t total, double seconds,
                          std::string_view item, int width);

}  // namespace moeref
