#include "tools/bench/cuda/program.hpp"

#include <algorithm>

#include "golden/catalogue/presets.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::bench {
namespace {

std::vector<Shape> all_shapes() {
  std::vector<Shape> out;
  for (const Preset* preset : measured_presets()) {
    const MoEConfig& c = preset->full;
    out.push_back({preset->measured->name.c_str(), static_cast<int>(preset->measured->tokens),
                   static_cast<int>(c.dim), static_cast<int>(c.moe_inter_dim),
                   static_cast<int>(c.n_routed_experts), static_cast<int>(c.n_activated_experts)});
  }
  return out;
}

}  // namespace

std::vector<Shape> shapes_named(const std::vector<std::string>& names) {
  std::vector<Shape> shapes = all_shapes();
  std::string known;
  for (const Shape& s : shapes) known += (known.empty() ? "" : ", ") + std::string(s.name);
  for (const std::string& name : names)
    if (std::none_of(shapes.begin(), shapes.end(), [&](const Shape& s) { return name == s.name; }))
      throw ArgumentError("unknown shape '" + name + "': want one of " + known);
  if (!names.empty())
    std::erase_if(
        shapes, [&](const Shape& s) { return std::find(names.begin(), names.end(), s.name) == names.end(); });
  return shapes;
}

}  // namespace moeref::cuda::bench
