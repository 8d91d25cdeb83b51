// What a terminal can show, and texts made safe for one line of it.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace moeref {

bool is_terminal(std::FILE* stream);

/// A terminal that shows colours, unless NO_COLOR is set (https://no-color.org).
bool shows_colours(std::FILE* stream);

/// Columns of the terminal, 80 where there is none.
int terminal_width(std::FILE* stream);

enum class Colour { plain, green, yellow, red, faint, bold };

/// The text in that colour, or as it is where `enabled` is false.
std::string coloured(std::string_view text, Colour colour, bool enabled);

/// Control characters, as names in a damaged file or on the command line may hold, become '?'.
std::string one_line(std::string_view text);

/// The text as one word of a POSIX shell's command line.
std::string shell_word(std::string_view text);

}  // namespace moeref
