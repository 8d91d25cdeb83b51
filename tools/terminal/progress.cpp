#include "tools/terminal/progress.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "tools/terminal/terminal.hpp"

namespace moeref {

std::string progress_line(std::string_view what, std::size_t done, std::size_t total, double seconds,
                          std::string_view item, int width) {
  constexpr std::size_t kCells = 24;
  const std::size_t filled = total == 0 ? kCells : kCells * std::min(done, total) / total;
  std::string line = fmt::format("{} [{:#<{}}{:.<{}}] {}/{}  {:.0f} s  {}", what, "", filled, "",
                                 kCells - filled, done, total, seconds, one_line(item));
  // A line that wraps could not be drawn over.
  if (width > 1 && line.size() >= static_cast<std::size_t>(width))
    line.resize(static_cast<std::size_t>(width) - 1);
  return line;
}

Progress::Progress(std::string what, std::size_t total, double seconds_between_lines)
    : what_(std::move(what)),
      total_(total),
      shown_(is_terminal(stderr)),
      between_lines_(seconds_between_lines),
      began_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void Progress::start(std::string_view item) {
  const std::lock_guard lock(mutex_);
  item_ = item;
  draw(false);
}

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  ++done_;
  draw(done_ == total_);
}

void Progress::log(double seconds) {
  if (seconds - logged_ < between_lines_) return;
  logged_ = seconds;
  fmt::print(stderr, "{}: {} of {} after {:.0f} s, {}\n", what_, done_, total_, seconds, one_line(item_));
}

void Progress::draw(bool always) {
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - began_).count();
  if (!shown_) return log(seconds);
  if (!always && now - drawn_ < std::chrono::milliseconds(50)) return;
  drawn_ = now;
  fmt::print(stderr, "\r\033[K{}",
             progress_line(what_, done_, total_, seconds, item_, terminal_width(stderr)));
  std::fflush(stderr);
}

}  // namespace moeref
