#include "tools/terminal/terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

namespace moeref {

bool is_terminal(std::FILE* stream) { return ::isatty(::fileno(stream)) != 0; }

bool shows_colours(std::FILE* stream) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  if (no_color && *no_color) return false;
  return is_terminal(stream) && term && std::string_view(term) != "dumb";
}

int terminal_width(std::FILE* stream) {
  winsize size{};
  if (::ioctl(::fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string coloured(std::string_view text, Colour colour, bool enabled) {
  constexpr std::array<std::string_view, 6> kCodes{"", "32", "33", "31", "2", "1"};
  if (!enabled || colour == Colour::plain) return std::string(text);
  return "\033[" + std::string(kCodes[static_cast<std::size_t>(colour)]) + "m" + std::string(text) +
         "\033[0m";
}

std::string one_line(std::string_view text) {
  std::string out(text);
  std::ranges::replace_if(
      out, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return out;
}

std::string shell_word(std::string_view text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string_view::npos) return std::string(text);
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace moeref
