// Aligned columns of text.
#pragma once

#include <string>
#include <vector>

#include "tools/terminal/terminal.hpp"

namespace moeref {

struct Cell {
  std::string text;
  Colour colour = Colour::plain;
  bool right = false;  ///< numbers stand right
};
using Row = std::vector<Cell>;

/// One line per row, two spaces between columns, nothing behind the last.
std::string columns(const std::vector<Row>& rows, bool colours);

}  // namespace moeref
