#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "tools/bench/bench_report.hpp"
#include "tools/report/xml.hpp"

namespace moeref {
namespace {

constexpr double kWidth = 960, kPanelTop = 104, kPanelHeight = 320, kPanelWidth = 392, kLeft = 64,
                 kPanelsApart = 480;
/// Colours that stay apart for colour-blind eyes (Okabe and Ito); marks tell lines apart without colours.
constexpr std::array kColours{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#000000"};
constexpr std::array kMarks{"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-4-4h8v8h-8z",
                            "M0-5.5L5.5 0 0 5.5-5.5 0z", "M0-5L5 4H-5z", "M0 5L5-4H-5z"};

/// A logarithmic axis over [from, to], given as pixels.
struct Axis {
  double from, to, start, length;
  double at(double value) const {
    return start + length * (std::log(value) - std::log(from)) / (std::log(to) - std::log(from));
  }
};

/// 1, 2, 5, 10, ... that enclose the values; a decade apart where there are many.
std::vector<double> round_ticks(double least, double most) {
  std::vector<double> ticks;
  const auto tick = [](int i) {
    constexpr std::array kSteps{1.0, 2.0, 5.0};
    return kSteps[static_cast<std::size_t>(((i % 3) + 3) % 3)] * std::pow(10.0, std::floor(i / 3.0));
  };
  int i = 3 * static_cast<int>(std::floor(std::log10(least)));
  while (tick(i + 1) <= least) ++i;
  for (ticks.push_back(tick(i)); ticks.back() < most || ticks.size() < 2; ticks.push_back(tick(i))) ++i;
  return ticks;
}

std::string decimal(double value) { return fmt::format("{:.6g}", value); }

struct Chart {
  std::vector<std::string> shapes;  ///< in order of first appearance
  std::vector<const BenchRow*> rows;
  std::set<std::int64_t> tokens;
  Component component = Component::moe;
};

Chart chart_of(const BenchReport& report) {
  Chart chart;
  const auto is_layer = [](const BenchRow& r) { return r.measured.component == Component::moe; };
  if (!report.rows.empty() && std::ranges::none_of(report.rows, is_layer))
    chart.component = report.rows.front().measured.component;
  for (const BenchRow& row : report.rows) {
    if (row.measured.component != chart.component || !(row.measured.median_ms > 0.0)) continue;
    chart.rows.push_back(&row);
    chart.tokens.insert(row.layer.tokens);
    if (std::ranges::find(chart.shapes, row.shape) == chart.shapes.end()) chart.shapes.push_back(row.shape);
  }
  return chart;
}

std::string text(double x, double y, const char* anchor, const std::string& words, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     xml_escaped(words));
}

std::string mark(std::size_t shape, double x, double y, const std::string& title) {
  return fmt::format("<path d=\"{}\" fill=\"{}\" transform=\"translate({:.1f} {:.1f})\">{}</path>\n",
                     kMarks[shape % kMarks.size()], kColours[shape % kColours.size()], x, y,
                     title.empty() ? "" : "<title>" + xml_escaped(title) + "</title>");
}

std::string legend(const Chart& chart) {
  std::string out;
  double x = kLeft, y = 58;
  for (std::size_t i = 0; i < chart.shapes.size(); ++i) {
    const double width = 30 + 7.6 * static_cast<double>(chart.shapes[i].size());
    if (x > kLeft && x + width > kWidth) x = kLeft, y += 16;
    out += mark(i, x + 5, y - 4, "") + text(x + 14, y, "start", chart.shapes[i]);
    x += width;
  }
  return out;
}

std::string axes(const Chart& chart, const Axis& x, const Axis& y, const std::vector<double>& ticks) {
  std::string out;
  for (const double tick : ticks) {
    out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}h{:.1f}\"/>\n", x.start, y.at(tick), x.length);
    out += text(x.start - 6, y.at(tick) + 4, "end", decimal(tick));
  }
  double last = -1e9;
  for (const std::int64_t tokens : chart.tokens) {
    const double at = x.at(static_cast<double>(tokens));
    out += fmt::format("<path class=\"grid\" d=\"M{:.1f} {:.1f}v{:.1f}\"/>\n", at, kPanelTop, kPanelHeight);
    const std::string label = std::to_string(tokens);
    if (at - last < 7.0 * static_cast<double>(label.size()) + 6) continue;  // would run into the one before
    out += text(at, kPanelTop + kPanelHeight + 16, "middle", label);
    last = at;
  }
  out += text(x.start + x.length / 2, kPanelTop + kPanelHeight + 36, "middle", "tokens");
  return out + text(x.start - 6, kPanelTop - 12, "end", "ms");
}

std::string panel(const Chart& chart, bool backward, const Axis& x, const Axis& y,
                  const std::vector<double>& ticks) {
  std::string out = "<g>\n" + text(x.start + x.length / 2, kPanelTop - 12, "middle",
                                   backward ? "forward + backward" : "forward", " class=\"title\"");
  out += axes(chart, x, y, ticks);
  for (std::size_t i = 0; i < chart.shapes.size(); ++i) {
    std::vector<const BenchRow*> points;
    for (const BenchRow* row : chart.rows)
      if (row->shape == chart.shapes[i] && row->measured.backward == backward) points.push_back(row);
    std::ranges::stable_sort(points, {}, [](const BenchRow* row) { return row->layer.tokens; });
    std::string line, marks;
    for (const BenchRow* row : points) {
      const double at = x.at(static_cast<double>(row->layer.tokens)), ms = y.at(row->measured.median_ms);
      line += fmt::format("{}{:.1f} {:.1f}", line.empty() ? "M" : "L", at, ms);
      std::string words = fmt::format("{}, {} tokens: {} ms", row->shape, row->layer.tokens,
                                      fmt::format("{:.4g}", row->measured.median_ms));
      if (const auto tflops = row->tflops()) words += fmt::format(", {:.1f} TF", *tflops);
      marks += mark(i, at, ms, words);
    }
    if (points.size() > 1)
      out +=
          fmt::format("<path class=\"line\" stroke=\"{}\" d=\"{}\"/>\n", kColours[i % kColours.size()], line);
    out += marks;
  }
  return out + "</g>\n";
}

}  // namespace

std::string bench_picture(const BenchReport& report) {
  const Chart chart = chart_of(report);
  std::string on;
  for (const auto& [fact, words] : report.environment)
    if (fact == "device" || fact == "processor") on = ", " + words;
  const std::string title =
      fmt::format("Time of {} against tokens, port {}{}",
                  chart.component == Component::moe ? "the layer" : name(chart.component), report.port, on);
  std::string out = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"480\" viewBox=\"0 0 {0:.0f} "
      "480\" "
      "role=\"img\" aria-label=\"{1}\">\n"
      "<style>text{{font:13px sans-serif;fill:#222}}.title{{font-weight:bold}}"
      ".grid{{stroke:#ddd;stroke-width:1}}.line{{fill:none;stroke-width:2}}</style>\n"
      "<rect width=\"{0:.0f}\" height=\"480\" fill=\"#fff\"/>\n",
      kWidth, xml_escaped(title));
  out += text(kLeft, 28, "start", title, " class=\"title\"");
  if (chart.rows.empty()) return out + text(kLeft, 58, "start", "Nothing was measured.") + "</svg>\n";

  double least = chart.rows.front()->measured.median_ms, most = least;
  for (const BenchRow* row : chart.rows) {
    least = std::min(least, row->measured.median_ms);
    most = std::max(most, row->measured.median_ms);
  }
  const std::vector<double> ticks = round_ticks(least, most);
  const Axis y{ticks.front(), ticks.back(), kPanelTop + kPanelHeight, -kPanelHeight};
  // Room beside the outermost marks.
  const auto first = static_cast<double>(*chart.tokens.begin()),
             last = static_cast<double>(*chart.tokens.rbegin());
  const double room = chart.tokens.size() > 1 ? std::pow(last / first, 0.06) : 2.0;
  out += legend(chart);
  for (const bool backward : {false, true}) {
    const Axis x{first / room, last * room, kLeft + (backward ? kPanelsApart : 0.0), kPanelWidth};
    out += panel(chart, backward, x, y, ticks);
  }
  return out + "</svg>\n";
}

}  // namespace moeref
