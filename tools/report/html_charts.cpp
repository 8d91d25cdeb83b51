#include "tools/report/html_charts.hpp"

#include <fmt/core.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>

#include "tools/report/xml.hpp"

namespace moeref {
namespace {

/// Upper ends of the bars; what is above the last one has a bar of its own.
constexpr std::array<double, 7> kBarEnds{0.0, 0.01, 0.1, 0.5, 1.0, 10.0, 1000.0};
constexpr std::array<const char*, 8> kBarTitles{"0",    "to 0.01", "to 0.1",  "to 0.5",
                                                "to 1", "to 10",   "to 1000", "above"};
constexpr std::size_t kFirstFailingBar = 5;

std::size_t bar_of(double ratio) {
  return static_cast<std::size_t>(std::ranges::lower_bound(kBarEnds, ratio) - kBarEnds.begin());
}

using Bars = std::array<std::int64_t, kBarEnds.size() + 1>;

/// "outputs/indices_2_0" belongs to the stage "indices"; parameters share one stage.
std::string stage_title(const CaseReport& report, const std::string& tensor) {
  if (tensor.starts_with("grads/")) {
    const std::string of = tensor.substr(6);
    const bool parameter = of != "x" && of != "weights" && of != "original_scores";
    return "gradient of " + (parameter ? "parameters" : of);
  }
  if (report.component == Component::metrics) return "metrics";
  if (report.component == Component::init) return "initial parameters";
  std::string title = tensor.substr(tensor.find('/') + 1);
  while (title.size() > 2 && title.back() >= '0' && title.back() <= '9') {
    const std::size_t end = title.find_last_not_of("0123456789");
    if (end == std::string::npos || title[end] != '_') break;
    title.erase(end);
  }
  return title;
}

std::string histogram(const std::string& title, const Bars& bars) {
  const std::int64_t most = *std::ranges::max_element(bars);
  const std::int64_t total = std::accumulate(bars.begin(), bars.end(), std::int64_t{0});
  const std::int64_t failing = std::accumulate(bars.begin() + kFirstFailingBar, bars.end(), std::int64_t{0});
  std::string out = fmt::format(
      "<figure class=\"bars\"><figcaption>{} <span>{} tensors{}</span></figcaption>"
      "<svg viewBox=\"0 0 164 66\" role=\"img\" aria-label=\"{}: {} tensors, {} above r = 1\">",
      xml_escaped(title), total, failing > 0 ? fmt::format(", <b>{} above 1</b>", failing) : "",
      xml_escaped(title), total, failing);
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double height = most == 0 ? 0.0 : 44.0 * std::sqrt(static_cast<double>(bars[i]) / most);
    fmt::format_to(std::back_inserter(out),
                   "<rect class=\"{}\" x=\"{}\" y=\"{:.1f}\" width=\"18\" height=\"{:.1f}\"><title>r {}: "
                   "{}</title></rect>",
                   i < kFirstFailingBar ? "within" : "above", 1 + 20.5 * i, 54.0 - height, height,
                   kBarTitles[i], bars[i]);
    if (bars[i] > 0)
      fmt::format_to(std::back_inserter(out), "<text x=\"{}\" y=\"{:.1f}\">{}</text>", 10 + 20.5 * i,
                     52.0 - height, bars[i]);
  }
  out += "<path class=\"axis\" d=\"M0 54.5H164\"/><path class=\"limit\" d=\"M102.2 6V58\"/>";
  constexpr std::array<const char*, 8> kTicks{"0", ".01", ".1", ".5", "1", "10", "1e3", "&#8734;"};
  for (std::size_t i = 0; i < kTicks.size(); ++i)
    fmt::format_to(std::back_inserter(out), "<text x=\"{}\" y=\"64\">{}</text>", 10 + 20.5 * i, kTicks[i]);
  return out + "</svg></figure>";
}

/// The cells of a grid by class, each class one path of horizontal runs: small even for large grids.
std::string cell_paths(std::int64_t rows, std::int64_t columns,
                       const std::function<std::string(std::int64_t, std::int64_t)>& class_of) {
  std::map<std::string, std::string> paths;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t column = 0; column < columns;) {
      const std::string kind = class_of(row, column);
      const std::int64_t first = column;
      while (column < columns && class_of(row, column) == kind) ++column;
      if (!kind.empty())
        fmt::format_to(std::back_inserter(paths[kind]), "M{} {}h{}v1h-{}z", first, row, column - first,
                       column - first);
    }
  std::string out;
  for (const auto& [kind, path] : paths) out += fmt::format("<path class=\"{}\" d=\"{}\"/>", kind, path);
  return out;
}

/// Lines between the cells, which runs of one class would hide.
std::string cell_lines(std::int64_t rows, std::int64_t columns) {
  std::string path;
  for (std::int64_t row = 0; row <= rows; ++row) path += fmt::format("M0 {}h{}", row, columns);
  for (std::int64_t column = 0; column <= columns; ++column) path += fmt::format("M{} 0v{}", column, rows);
  return "<path class=\"lines\" d=\"" + path + "\"/>";
}

/// A grid with names of rows at its left and numbers of columns above, `cell` pixels a cell; wide ones scroll
/// within themselves.
std::string grid(std::int64_t rows, std::int64_t columns, double cell, const std::string& label,
                 const std::vector<std::string>& row_names, std::int64_t column_step,
                 const std::function<std::string(std::int64_t, std::int64_t)>& class_of) {
  std::size_t longest = 0;
  for (const std::string& row_name : row_names) longest = std::max(longest, row_name.size());
  const double left = 6.5 * static_cast<double>(longest) + 6, top = 14;
  const double width = left + cell * static_cast<double>(columns) + 14;
  std::string out = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{0}\"><svg class=\"grid\" "
      "role=\"img\" "
      "aria-label=\"{0}\" width=\"{1:.0f}\" height=\"{2:.0f}\" viewBox=\"0 0 {1:.0f} {2:.0f}\">",
      xml_escaped(label), width, top + cell * static_cast<double>(rows) + 2);
  // Numbers stand at least 26 pixels apart.
  const auto every = static_cast<std::int64_t>(std::ceil(26.0 / cell));
  for (std::int64_t column = 0; column < columns; column += every)
    fmt::format_to(std::back_inserter(out), "<text x=\"{:.1f}\" y=\"10\">{}</text>",
                   left + cell * (static_cast<double>(column) + 0.5), column * column_step);
  const auto lines_apart = static_cast<std::int64_t>(std::ceil(11.0 / cell));
  for (std::int64_t row = 0; row < rows; row += lines_apart)
    fmt::format_to(std::back_inserter(out), "<text class=\"name\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>",
                   left - 4, top + cell * (static_cast<double>(row) + 0.5) + 3.5,
                   xml_escaped(row_names[static_cast<std::size_t>(row)]));
  fmt::format_to(std::back_inserter(out), "<g transform=\"translate({:.1f} {}) scale({})\">", left, top,
                 cell);
  out += cell_paths(rows, columns, class_of) + (cell >= 6 ? cell_lines(rows, columns) : "");
  return out + "</g></svg></div>";
}

double cell_size(std::int64_t columns) { return columns <= 32 ? 14 : columns <= 96 ? 9 : 6; }

std::string legend(const std::vector<std::pair<const char*, const char*>>& entries) {
  std::string out = "<p class=\"legend\">";
  for (const auto& [kind, text] : entries)
    out += fmt::format(
        "<span><svg viewBox=\"0 0 1 1\"><path class=\"{}\" d=\"M0 0h1v1h-1z\"/></svg>{}</span>", kind, text);
  return out + "</p>";
}

}  // namespace

std::string html_ratio_histograms(const Report& report) {
  // The files' own results are judged beside the port's; alone where the port is the reference.
  const auto is_ports = [](const TensorFinding& tensor) { return tensor.subject == Subject::port; };
  const bool of_port = std::ranges::any_of(
      report.cases, [&](const CaseReport& one) { return std::ranges::any_of(one.tensors, is_ports); });
  std::map<std::pair<int, std::string>, Bars> stages;
  for (const CaseReport& one : report.cases)
    for (const TensorFinding& tensor : one.tensors)
      if (is_ports(tensor) == of_port)
        ++stages[{stage_order(tensor.verdict.tensor), stage_title(one, tensor.verdict.tensor)}]
                [bar_of(tensor.verdict.ratio)];
  std::string out;
  for (const auto& [stage, bars] : stages) out += histogram(stage.second, bars);
  return out;
}

std::string html_ratio_map(const RatioMap& map) {
  if (map.rows == 0 || map.columns == 0) return "";
  std::vector<std::string> names;
  for (std::int64_t row = 0; row < map.rows; ++row) names.push_back(std::to_string(row * map.rows_a_cell));
  const auto class_of = [&](std::int64_t row, std::int64_t column) {
    const double r = map.worst[static_cast<std::size_t>(row * map.columns + column)];
    return std::string(r <= 0.1 ? "r0" : r <= 1.0 ? "r1" : r <= 10.0 ? "r2" : r <= 1000.0 ? "r3" : "r4");
  };
  std::string cells = "an element";
  if (map.rows_a_cell * map.columns_a_cell > 1)
    cells = fmt::format("the worst of {} x {} elements", map.rows_a_cell, map.columns_a_cell);
  return fmt::format("<h4>r over the tensor, a cell {}</h4>", cells) +
         grid(map.rows, map.columns, cell_size(map.columns), "r over the tensor", names, map.columns_a_cell,
              class_of) +
         legend({{"r0", "to 0.1"}, {"r1", "to 1"}, {"r2", "to 10"}, {"r3", "to 1000"}, {"r4", "above"}});
}

std::string html_load_map(const std::vector<RoutingEvidence>& routing) {
  if (routing.empty()) return "";
  std::vector<std::string> names;
  std::vector<const std::vector<std::int64_t>*> loads;
  std::int64_t most = 1;
  std::string words;
  for (const RoutingEvidence& decision : routing) {
    const std::string of =
        routing.size() == 1 ? "" : decision.indices.substr(decision.indices.find('/') + 1) + " ";
    names.push_back(of + "reference");
    names.push_back(of + "port");
    loads.push_back(&decision.reference_load);
    loads.push_back(&decision.port_load);
    for (std::size_t expert = 0; expert < decision.port_load.size(); ++expert) {
      const std::int64_t want = decision.reference_load[expert], have = decision.port_load[expert];
      most = std::max({most, want, have});
      if (want != have && words.size() < 400)
        words += fmt::format("{}{}expert {}: {} tokens, port {}", words.empty() ? "" : "; ", of, expert, want,
                             have);
    }
  }
  const auto class_of = [&](std::int64_t row, std::int64_t expert) {
    const std::int64_t load = (*loads[static_cast<std::size_t>(row)])[static_cast<std::size_t>(expert)];
    return load == 0 ? std::string("l0") : fmt::format("l{}", 1 + (load * 5 - 1) / most);
  };
  const auto experts = static_cast<std::int64_t>(loads[0]->size());
  return fmt::format("<h4>Load: tokens that chose each expert, at most {}</h4>", most) +
         grid(static_cast<std::int64_t>(loads.size()), experts, cell_size(experts), "load of the experts",
              names, 1, class_of) +
         "<p class=\"note\">" + (words.empty() ? "No difference." : xml_escaped(words) + ".") + "</p>";
}

std::string html_routing_map(const RoutingEvidence& routing) {
  std::string title = fmt::format("<h4>{}: {} of {} tokens chose other experts</h4>",
                                  xml_escaped(routing.indices), routing.differing, routing.tokens);
  if (routing.shown.empty() || routing.experts == 0 || routing.differing == 0) return title;
  std::vector<std::string> names;
  bool none = false;
  for (const RoutingEvidence::Token& token : routing.shown) {
    names.push_back(fmt::format("{}", token.token));
    none = none ||
           std::ranges::any_of(token.port, [&](std::int64_t id) { return id < 0 || id >= routing.experts; });
  }
  const auto class_of = [&](std::int64_t row, std::int64_t expert) -> std::string {
    const RoutingEvidence::Token& token = routing.shown[static_cast<std::size_t>(row)];
    const bool want = std::ranges::find(token.reference, expert) != token.reference.end();
    const bool have = std::ranges::find(token.port, expert) != token.port.end();
    return want && have ? "both" : want ? "missed" : have ? "extra" : "neither";
  };
  return title +
         grid(static_cast<std::int64_t>(routing.shown.size()), routing.experts, cell_size(routing.experts),
              "experts chosen, token by token", names, 1, class_of) +
         legend({{"both", "both"}, {"missed", "reference alone"}, {"extra", "port alone"}}) +
         (none ? "<p class=\"note\">Some of the port's ids are no experts.</p>" : "");
}

}  // namespace moeref
