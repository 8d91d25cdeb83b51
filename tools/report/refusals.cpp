#include "tools/report/refusals.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>

#include "tools/terminal/terminal.hpp"

namespace moeref {
namespace {

constexpr std::size_t kReasonsShown = 5;

}  // namespace

Refusals most_frequent_first(const std::map<std::string, std::int64_t>& counts) {
  Refusals out(counts.begin(), counts.end());
  std::ranges::stable_sort(out, std::greater{}, &Refusals::value_type::second);
  return out;
}

std::string refusal_lines(const Refusals& refusals) {
  std::string out;
  std::int64_t others = 0;
  for (std::size_t i = 0; i < refusals.size(); ++i) {
    if (i < kReasonsShown)
      out += fmt::format("{} x not supported: {}\n", refusals[i].second, one_line(refusals[i].first));
    else
      others += refusals[i].second;
  }
  if (others > 0) out += fmt::format("{} x not supported for other reasons; --json has them\n", others);
  return out;
}

}  // namespace moeref
