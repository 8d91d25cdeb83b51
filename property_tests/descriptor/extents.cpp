#include "property_tests/descriptor/extents.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "golden/catalogue/presets.hpp"
#include "property_tests/descriptor/choices.hpp"

namespace moeref {
namespace {

constexpr auto kBases = std::to_array<std::int64_t>(
    {8, 16, 32, 64, 96, 128, 160, 192, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536});

constexpr auto kLadder = [] {
  std::array<std::int64_t, 3 * kBases.size()> out{};
  for (std::size_t i = 0; i < kBases.size(); ++i)
    for (std::size_t j = 0; j < 3; ++j) out[3 * i + j] = kBases[i] - 1 + static_cast<std::int64_t>(j);
  return out;
}();

/// An extent that is drawn from the ladder.
struct Extent {
  std::int64_t Descriptor::*member;
  std::int64_t most;
  std::string_view components;
};
constexpr auto kExtents = std::to_array<Extent>({
    {&Descriptor::E, 1024, "gate aux_loss bias_update fake_balanced_gate experts moe init metrics"},
    {&Descriptor::T, kLargestExtent, "gate aux_loss bias_update fake_balanced_gate mlp experts moe metrics"},
    {&Descriptor::k, 64, "gate aux_loss bias_update fake_balanced_gate experts moe"},
    {&Descriptor::D, kLargestExtent, "gate bias_update fake_balanced_gate mlp experts moe init"},
    {&Descriptor::I, kLargestExtent, "mlp experts moe init"},
    {&Descriptor::rows, kLargestExtent, "experts moe"},
    {&Descriptor::latent, kLargestExtent, "moe"},
});

bool has(const Extent& extent, Component component) {
  return (" " + std::string(extent.components) + " ").find(" " + std::string(name(component)) + " ") !=
         std::string::npos;
}

std::vector<const Extent*> extents_of(Component component) {
  std::vector<const Extent*> out;
  for (const Extent& extent : kExtents)
    if (has(extent, component)) out.push_back(&extent);
  return out;
}

using Chosen = std::vector<std::int64_t Descriptor::*>;

bool is_chosen(const Chosen& chosen, const Extent& extent) {
  return std::ranges::find(chosen, extent.member) != chosen.end();
}

/// Lowers extents until the call is within the range: first by halves those that were not chosen, then the
/// chosen ones down the ladder, the largest first. One that the repair raises again is left.
bool lower(Descriptor& d, const Chosen& chosen, const SizeRange& range) {
  const std::vector<const Extent*> extents = extents_of(d.component);
  std::vector<const Extent*> stuck;
  bool lowered = false;
  for (repair(d); !fits(d, range); lowered = true) {
    const Extent* largest = nullptr;
    for (const bool among_chosen : {false, true}) {
      for (const Extent* extent : extents) {
        if (is_chosen(chosen, *extent) != among_chosen || d.*extent->member < 3 ||
            std::ranges::find(stuck, extent) != stuck.end())
          continue;
        if (!largest || d.*extent->member > d.*largest->member) largest = extent;
      }
      if (largest) break;
    }
    if (!largest) return lowered;
    std::int64_t& extent = d.*largest->member;
    const std::int64_t before = extent;
    extent = is_chosen(chosen, *largest) ? step_below(extent) : extent / 2;
    repair(d);
    if (d.*largest->member >= before) stuck.push_back(largest);
  }
  return lowered;
}

/// A step of the ladder, or now and then a multiple of a step and a few more. Most tiles end at 512 or
/// before, and b itself is where a tile is full, so that these come more often.
std::int64_t draw_step(Choices& draw, std::int64_t most) {
  const std::int64_t reach = draw.chance(60) ? std::min<std::int64_t>(most, 513) : most;
  const std::int64_t bases =
      std::max<std::int64_t>(std::ranges::upper_bound(kBases, reach) - kBases.begin(), 1);
  const std::int64_t base = kBases[static_cast<std::size_t>(draw.between(0, bases - 1))];
  const std::int64_t step = std::min(most, base + draw.of<std::int64_t>({-1, 0, 0, 1}));
  if (!draw.chance(20)) return step;
  return std::min(most, step * draw.between(2, 5) + draw.between(0, 7));
}

/// The layer around an extent that was chosen, so that the call still makes sense.
void make_room(Descriptor& d, Choices& draw, std::int64_t Descriptor::*chosen) {
  const bool groups = draw.chance(30);
  const std::int64_t more = draw.between(0, 9), logits = draw.between(0, 3);
  if (chosen == &Descriptor::rows) {
    d.ids = Ids::rows;
    d.replay = d.component == Component::moe;
    d.T = std::max(d.T, d.rows + more);
    d.E = std::max(d.E, d.k + 1);
  }
  if (chosen == &Descriptor::k) {
    d.E = std::max(d.E, d.k + more % 4);
    if (!groups) d.groups = d.limited = 1;
  }
  // Else the identity makes x as wide as there are experts.
  if (d.E > 40 && logits > 0) d.logits = logits == 1 ? Logits::whole : Logits::rough;
}

/// The extents of the ladder among those of a small call.
void draw_small(Descriptor& d, Choices& draw, const SizeRange& whole) {
  if (!draw.chance(whole.ladder_percent)) return;
  SizeRange range = whole;
  // Most of them cheap.
  if (!draw.chance(33))
    range.multiply_adds = std::ldexp(whole.multiply_adds, -static_cast<int>(draw.between(1, 8)));
  const std::vector<const Extent*> extents = extents_of(d.component);
  const std::int64_t form = draw.between(0, 99);
  const Preset& published = draw.one_of(presets());
  Chosen chosen;
  if (form < 12 && has(kExtents[1], d.component)) {  // a single long dimension
    const bool wide =
        draw.chance(40) && d.component != Component::aux_loss && d.component != Component::metrics;
    range = whole;
    d.T = wide ? 3
               : draw.of<std::int64_t>(
                     {65535, 65536, 65537, 32769, 16385, 8193, 4097, 4097 + draw.between(1, 62)});
    d.D = wide ? draw.of<std::int64_t>({16383, 16384, 16385}) : draw.of<std::int64_t>({1, 3, 8});
    d.I = std::min<std::int64_t>(d.I, 2);
    d.E = std::min<std::int64_t>(d.E, 9);
    d.k = wide ? d.k : draw.of<std::int64_t>({1, 1, 2, 3});
    d.steps = d.micro = 1;
    chosen = {&Descriptor::T, &Descriptor::D};
  } else if (form < 40 && has(kExtents[2], d.component)) {  // experts and slots of a published model
    d.E = published.full.n_routed_experts;
    d.k = published.full.n_activated_experts;
    d.groups = published.full.n_expert_groups;
    d.limited = published.full.n_limited_groups;
    chosen = {&Descriptor::E, &Descriptor::k};
    make_room(d, draw, &Descriptor::E);
  } else {
    for (std::int64_t count = draw.between(1, 3); count > 0; --count) {
      const Extent& extent = *draw.one_of(extents);
      d.*extent.member = draw_step(draw, extent.most);
      chosen.push_back(extent.member);
      make_room(d, draw, extent.member);
      if (extent.member == &Descriptor::rows) chosen.push_back(&Descriptor::T);
      if (extent.member == &Descriptor::k) chosen.push_back(&Descriptor::E);
    }
  }
  lower(d, chosen, range);
}

double matrices(const Descriptor& d) { return facts(d.activation).gated ? 3.0 : 2.0; }

double expert_elements(const Descriptor& d) {
  return matrices(d) * static_cast<double>(d.latent > 0 ? d.latent : d.D) * static_cast<double>(d.I);
}

/// The layer of a preset at its real width; its weights may come to fewer experts than it has.
void take_preset(Descriptor& d, const Preset& preset, const SizeRange& range) {
  const MoEConfig& c = preset.full;
  const bool mlp = d.component == Component::mlp;
  d.D = c.dim;
  d.I = mlp ? c.inter_dim : c.moe_inter_dim;
  d.E = c.n_routed_experts;
  d.k = c.n_activated_experts;
  d.groups = c.n_expert_groups;
  d.limited = c.n_limited_groups;
  d.score = c.score_func;
  d.before_topk = c.softmax_before_topk;
  d.norm = c.norm_topk_prob;
  d.scale = c.route_scale;
  d.aux = c.aux_loss_coeff;
  d.factor = c.gate_bias_update_factor;
  d.correction = c.has_correction_bias() ? Correction::normal : Correction::none;
  d.router_bias = c.router_bias;
  d.activation = c.expert_activation;
  d.expert_bias = c.expert_bias;
  d.after_down = c.apply_router_weight_after_down;
  d.limit =
      facts(c.expert_activation).clamp == ClampField::activation_limit ? c.activation_limit : c.swiglu_limit;
  d.shared = c.shared_dim() / c.moe_inter_dim;
  d.shared_gate = c.shared_expert_gate;
  d.shared_relu2 = c.shared_expert_activation == ActivationKind::relu2;
  d.latent = c.moe_latent_size.value_or(0);
  d.precision.reset();
  if (preset.options.contains("gate_precision"))
    d.precision = parse_dtype(preset.options.at("gate_precision").get<std::string>());
  const bool has_experts = has_routed_experts(d.component) || d.component == Component::init;
  if (has_experts)
    d.E = std::clamp(static_cast<std::int64_t>(range.elements / expert_elements(d)), std::int64_t{1}, d.E);
}

/// A call whose rows times width pass 2^31, which none of its inputs does.
void pass_int32(Descriptor& d) {
  const bool mlp = d.component == Component::mlp;
  d.D = 64;
  d.I = mlp ? 32776 : 8200;
  d.T = mlp ? 65537 : 16385;
  d.E = d.k = 8;
  d.groups = d.limited = 1;
  d.latent = 0;
}

bool offers(const SizeRange& range, DType dtype) {
  return range.dtypes.empty() || std::ranges::find(range.dtypes, dtype) != range.dtypes.end();
}

DType draw_dtype(Choices& draw, const SizeRange& range) {
  const DType usual = draw.of({DType::bfloat16, DType::bfloat16, DType::float32});
  return offers(range, usual) ? usual : draw.one_of(range.dtypes);
}

void draw_large(Descriptor& d, Choices& draw, const SizeRange& range) {
  const bool full = range.scale == Scale::full;
  const std::int64_t least = full ? 8192 : 255, most = full ? 32769 : 4097;
  // The presets whose layer is within the range with that many tokens; the smallest where none is.
  std::vector<const Preset*> takes;
  for (const Preset& preset : presets()) {
    Descriptor one = d;
    take_preset(one, preset, range);
    one.T = least;
    one.k = std::min<std::int64_t>(one.k, 2);
    const bool some_experts = d.component == Component::mlp || one.E >= 4;
    if (some_experts && expert_elements(one) <= range.elements && multiply_adds(one) <= range.multiply_adds)
      takes.push_back(&preset);
  }
  if (takes.empty()) takes.push_back(&find_preset("qwen3_30b"));
  take_preset(d, *draw.one_of(takes), range);
  d.ranks = d.batch = d.steps = d.micro = 1;
  d.replay = d.frozen = d.eval = d.fake_gate = d.biased_weights = false;
  d.noise = 0.0;
  d.aux_scale = 1.0;
  d.config = {};
  d.logits = Logits::rough;
  d.values = draw.of({Values::rough, Values::rough, Values::loud});
  d.dtype = draw_dtype(draw, range);
  d.mask = draw.of({Mask::absent, Mask::absent, Mask::random, Mask::last});
  d.ids = draw.of({Ids::distinct, Ids::skewed, Ids::rows, Ids::last_expert});
  do d.T = draw_step(draw, most);
  while (d.T < least);
  const std::int64_t rows = draw_step(draw, d.T);
  if (!full) d.k = std::min(d.k, draw.of<std::int64_t>({d.k, 2, 1}));
  const bool passes = full && draw.chance(34) && range.multiply_adds >= 0x1p42 &&
                      (d.component == Component::mlp || d.component == Component::experts);
  if (passes) {
    pass_int32(d);
    if (offers(range, DType::bfloat16)) d.dtype = DType::bfloat16;  // half the memory
  }
  while (multiply_adds(d) > range.multiply_adds && !passes && d.T > 8)
    if (d.T > least || d.k < 2)
      d.T = step_below(d.T);
    else
      d.k /= 2;
  d.rows = std::min(rows, d.T);
}

}  // namespace

std::span<const std::int64_t> ladder() { return kLadder; }

std::int64_t step_below(std::int64_t extent) {
  const auto above = std::ranges::lower_bound(kLadder, extent);
  return above == kLadder.begin() ? extent - 1 : *(above - 1);
}

std::vector<std::int64_t> smaller_extents(std::int64_t extent) {
  std::vector<std::int64_t> out;
  const auto put = [&](std::int64_t smaller) {
    if (smaller < extent && std::ranges::find(out, smaller) == out.end()) out.push_back(smaller);
  };
  put(0);
  put(1);
  for (const std::int64_t step : kLadder) put(step);
  for (std::int64_t less = (extent + 1) / 2; less > 0; less /= 2) put(extent - less);
  return out;
}

double multiply_adds(const Descriptor& d) {
  // An element's score, activation or sum of slots, beside the products.
  constexpr double kElement = 32.0;
  const auto real = [](std::int64_t extent) { return static_cast<double>(extent); };
  const double tokens = real(d.T), slots = tokens * real(d.k), columns = real(d.D), inner = real(d.I);
  const double gate = tokens * real(d.E) * (3.0 * columns + kElement);
  const double width = d.latent > 0 ? real(d.latent) : columns;
  const double experts = slots * (inner * (3.0 * matrices(d) * width + kElement) + kElement * width);
  switch (d.component) {
    case Component::gate:
      return gate;
    case Component::bias_update:
      return real(d.steps * d.micro) * tokens * real(d.E) * (columns + kElement);
    case Component::aux_loss:
    case Component::metrics:
      return tokens * real(d.E) * kElement;
    case Component::fake_balanced_gate:
      return tokens * (columns + real(d.k) * kElement);
    case Component::mlp:
      return tokens * inner * (3.0 * matrices(d) * columns + kElement);
    case Component::experts:
      return experts;
    case Component::moe:
      return gate + experts + 6.0 * tokens * columns * real(d.latent) +
             tokens * real(d.shared) * inner * (9.0 * columns + kElement);
    case Component::init:
      return real(d.E) * expert_elements(d) * kElement;
  }
  return 0.0;
}

double largest_tensor(const Descriptor& d) {
  const auto product = [](auto... extents) { return (static_cast<double>(extents) * ...); };
  const bool layer = has_routed_experts(d.component);
  double most = std::max({product(d.T, d.D), product(d.T, d.E), product(d.E, d.D), product(d.T, d.k)});
  if (d.component == Component::mlp) most = std::max({most, product(d.T, d.I), product(d.D, d.I)});
  if (layer) most = std::max({most, product(d.T, d.k, std::max(d.I, d.D))});
  if (layer || d.component == Component::init) most = std::max(most, product(d.E, 1) * expert_elements(d));
  return most;
}

bool fits(const Descriptor& d, const SizeRange& range) {
  // Rows times width are the port's own affair at real sizes.
  const bool elements = range.scale != Scale::small || largest_tensor(d) <= range.elements;
  return elements && multiply_adds(d) <= range.multiply_adds;
}

SizeRange size_range(Scale scale, bool by_reference) {
  switch (scale) {
    case Scale::small:
      break;
    case Scale::kernel:
      return {scale, 0x1p33, 0x1p26, 100};
    case Scale::full:
      return by_reference ? SizeRange{scale, 0x1p36, 0x1p28, 100} : SizeRange{scale, 0x1p43, 0x1p30, 100};
  }
  return {};
}

bool lower_to(Descriptor& descriptor, const SizeRange& range) {
  Chosen all;
  for (const Extent& extent : kExtents) all.push_back(extent.member);
  return lower(descriptor, all, range);
}

void draw_extents(Descriptor& descriptor, std::uint64_t bits, const SizeRange& range) {
  Choices draw(bits, "extents");
  if (range.scale == Scale::small)
    draw_small(descriptor, draw, range);
  else
    draw_large(descriptor, draw, range);
}

}  // namespace moeref
