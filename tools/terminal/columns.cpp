#include "tools/terminal/columns.hpp"

#include <algorithm>

namespace moeref {

std::string columns(const std::vector<Row>& rows, bool colours) {
  std::vector<std::size_t> width;
  for (const Row& row : rows) {
    width.resize(std::max(width.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].text.size());
  }
  std::string out;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(width[i] - row[i].text.size(), ' ');
      const std::string text = coloured(row[i].text, row[i].colour, colours);
      if (i > 0) line += "  ";
      line += row[i].right ? pad + text : text + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
  }
  return out;
}

}  // namespace moeref
