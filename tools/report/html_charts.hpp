// Charts of the HTML report as inline SVG. Colours are classes of the page's style, so that they follow its
// light and dark theme; each chart says in words what it shows.
#pragma once

#include <string>
#include <vector>

#include "tools/report/evidence.hpp"
#include "tools/report/report.hpp"

namespace moeref {

/// How many tensors have which r, one small chart a stage, in stage order.
std::string html_ratio_histograms(const Report& report);

/// Where in the first failing tensor the ratios are large.
std::string html_ratio_map(const RatioMap& map);

/// How many tokens chose each expert: the reference's row above the port's, one pair a routing decision.
std::string html_load_map(const std::vector<RoutingEvidence>& routing);

/// Tokens by experts: chosen by both, by the reference alone, by the port alone.
std::string html_routing_map(const RoutingEvidence& routing);

}  // namespace moeref
