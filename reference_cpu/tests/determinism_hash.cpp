// Prints one hash of every value and bound bit of a set of calls, each evaluated with one thread and with two
// and with every vector width that the machine has. Builds of any compiler and optimization must print the
// same line. Exit code 1 when thread counts or widths already differ. Inputs come from an integer generator
// alone.
#include <bit>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "moeref/reference.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product.hpp"

namespace {

using nlohmann::json;
using namespace moeref;

/// FNV-1a, 64 bits.
struct Hash {
  std::uint64_t state = 0xcbf29ce484222325u;

  void add(std::uint64_t word) {
    for (int i = 0; i < 8; ++i) state = (state ^ ((word >> (8 * i)) & 0xff)) * 0x100000001b3u;
  }
  void add(double value) { add(std::bit_cast<std::uint64_t>(value)); }
  void add(const std::string& text) {
    for (const char c : text) add(static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
  }
  void add(const std::vector<double>& values) {
    for (const double value : values) add(value);
  }
};

/// Knuth's MMIX generator; the high bits are used.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(seed) {}
  std::uint64_t below(std::uint64_t n) { return (next() >> 33) % n; }
  /// A multiple of 2^-20 in [-1, 1).
  double real() { return static_cast<double>(static_cast<std::int64_t>(next() >> 43) - (1 << 20)) * 0x1p-20; }

 private:
  std::uint64_t next() { return state_ = state_ * 6364136223846793005u + 1442695040888963407u; }
  std::uint64_t state_;
};

/// One entry of the set: the changes to a base layer, and what is called.
struct Case {
  const char* name;
  Component component;
  Shape tokens;
  json config;
  json options = json::object();
  bool backward = true;
  bool replay = false;
};

json layer(const json& changes) {
  json config = {{"n_routed_experts", 12},
                 {"n_shared_experts", 0},
                 {"n_activated_experts", 3},
                 {"n_expert_groups", 1},
                 {"n_limited_groups", 1},
                 {"train_gate", true},
                 {"gate_bias_update_factor", 0.0},
                 {"aux_loss_coeff", 0.125},
                 {"score_func", "softmax"},
                 {"route_scale", 1.5},
                 {"dim", 29},
                 {"inter_dim", 32},
                 {"moe_inter_dim", 19},
                 {"norm_topk_prob", true},
                 {"dtype", "float32"}};
  if (!changes.is_null()) config.merge_patch(changes);
  return config;
}

std::vector<Case> cases() {
  const Shape flat{37}, batch{3, 13};
  const json grouped{{"score_func", "sigmoid_with_bias"},
                     {"n_expert_groups", 4},
                     {"n_limited_groups", 2},
                     {"gate_bias_update_factor", 0.0625}};
  const auto with = [](json base, const json& changes) {
    base.merge_patch(changes);
    return base;
  };
  return {
      {"gate softmax", Component::gate, flat, layer({{"softmax_before_topk", true}, {"router_bias", true}})},
      {"gate softmax after, bf16",
       Component::gate,
       flat,
       layer({{"dtype", "bfloat16"}}),
       {{"gate_precision", "float32"}}},
      {"gate sigmoid, groups", Component::gate, flat, layer(grouped)},
      {"gate sqrtsoftplus, replayed",
       Component::gate,
       flat,
       layer({{"score_func", "sqrtsoftplus"}}),
       {{"cp_size", 2}},
       true,
       true},
      {"gate softmax with bias, fp16", Component::gate, flat,
       layer({{"score_func", "softmax_with_bias"},
              {"force_e_score_correction_bias", true},
              {"dtype", "float16"}})},
      {"aux loss", Component::aux_loss, flat, layer({})},
      {"bias update",
       Component::bias_update,
       flat,
       layer(grouped),
       {{"steps", 3}, {"micro_batches", 2}, {"dp_size", 2}},
       false},
      {"fake gate",
       Component::fake_balanced_gate,
       flat,
       layer({}),
       {{"noise", 0.5}, {"skip_first_n_experts", 2}},
       false},
      {"mlp swiglu, fp64",
       Component::mlp,
       batch,
       {{"dim", 31}, {"inter_dim", 45}, {"dtype", "float64"}, {"bias", true}, {"swiglu_limit", 0.5}}},
      {"mlp relu2, bf16",
       Component::mlp,
       flat,
       {{"dim", 31}, {"inter_dim", 45}, {"dtype", "bfloat16"}, {"activation", "relu2"}}},
      {"experts swiglu", Component::experts, flat, layer({{"swiglu_limit", 0.5}})},
      {"experts swigluoai, bf16", Component::experts, flat,
       layer({{"expert_activation", "swigluoai"}, {"expert_bias", true}, {"dtype", "bfloat16"}})},
      {"experts quick_geglu", Component::experts, flat,
       layer({{"expert_activation", "quick_geglu"},
              {"apply_router_weight_after_down", true},
              {"expert_bias", true}})},
      {"experts geglu, fp16", Component::experts, flat,
       layer({{"expert_activation", "geglu"}, {"dtype", "float16"}})},
      {"experts relu2, all to all",
       Component::experts,
       flat,
       layer({{"expert_activation", "relu2"}}),
       {{"ep_size", 4}, {"tokens_per_rank", {0, 20, 1, 16}}, {"exchange", "all_to_all"}}},
      {"moe", Component::moe, batch,
       layer({{"n_shared_experts", 2}, {"shared_expert_gate", true}, {"dtype", "bfloat16"}})},
      {"moe latent, all gather",
       Component::moe,
       batch,
       layer(with(grouped, {{"moe_latent_size", 11}, {"expert_bias", true}, {"n_shared_experts", 1}})),
       {{"ep_size", 3}}},
      {"moe fp64", Component::moe, batch, layer({{"dtype", "float64"}, {"expert_activation", "geglu"}})},
      {"moe fake gate",
       Component::moe,
       batch,
       layer({}),
       {{"fake_balanced_gate", true}, {"fake_gate_noise", 0.25}}},
      {"init", Component::init, {}, layer({{"n_shared_experts", 1}}), {{"seed", 7}}, false},
      {"init as PyTorch", Component::init, {}, layer({}), {{"torch_cpu_seed", 7}}, false},
      {"metrics", Component::metrics, {5}, layer({}), json::object(), false},
  };
}

Tensor draw(const TensorSpec& spec, std::int64_t experts, Draw& random) {
  Tensor tensor(spec.dtype, spec.shape);
  const std::int64_t k = spec.shape.empty() ? 1 : spec.shape.back();
  const bool is_ids = spec.name.find("indices") != std::string::npos;
  std::uint64_t first = 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    if (spec.dtype == DType::boolean) {
      tensor.set(i, random.below(4) == 0 ? 1.0 : 0.0);
    } else if (is_ids) {
      // Neighbouring experts, so that no expert comes twice in a token.
      if (i % k == 0) first = random.below(static_cast<std::uint64_t>(experts));
      tensor.set(i, static_cast<double>((first + static_cast<std::uint64_t>(i % k)) %
                                        static_cast<std::uint64_t>(experts)));
    } else if (spec.dtype == DType::int64) {
      tensor.set(i, static_cast<double>(random.below(100)));
    } else {
      tensor.set(i, random.real());
    }
  }
  return tensor;
}

Call make_call(const Case& c, std::uint64_t seed) {
  Call call{c.component, c.config, c.options, {}, c.backward};
  Draw random(seed);
  for (const TensorSpec& spec : signature(c.component, c.config, c.options, c.tokens, c.backward).inputs) {
    if (!c.replay && spec.name.starts_with("inputs/replay_indices")) continue;
    call.tensors[spec.name] = draw(spec, c.config.value("n_routed_experts", std::int64_t{1}), random);
  }
  return call;
}

std::uint64_t hash_of(const Evaluation& evaluation) {
  Hash hash;
  for (const auto& [name, result] : evaluation.results) {
    hash.add(name);
    hash.add(std::string(moeref::name(result.dtype)));
    for (const std::int64_t extent : result.shape) hash.add(static_cast<std::uint64_t>(extent));
    hash.add(result.value);
    for (const float bound : result.bound) hash.add(static_cast<double>(bound));
  }
  for (const RoutingScores& routing : evaluation.routing) {
    hash.add(routing.indices);
    for (const auto* values : {&routing.score, &routing.score_bound, &routing.group, &routing.group_bound})
      hash.add(*values);
  }
  return hash.state;
}

struct Setting {
  int threads;
  VectorWidth width;
  const char* text;
};

}  // namespace

int main(int argc, char** argv) {
  const bool verbose = argc > 1 && std::string(argv[1]) == "--verbose";
  std::vector<Setting> settings;
  for (const auto& [width, text] :
       {std::pair{VectorWidth::sse2, "sse2"}, {VectorWidth::avx2, "avx2"}, {VectorWidth::avx512, "avx512"}})
    if (has(width))
      for (const int threads : {1, 2}) settings.push_back({threads, width, text});

  Hash all;
  int differing = 0;
  std::uint64_t seed = 1;
  for (const Case& c : cases()) {
    const Call call = make_call(c, seed++);
    std::uint64_t first = 0;
    for (const Setting& setting : settings) {
      set_thread_count(setting.threads);
      use(setting.width);
      const std::uint64_t hash = hash_of(evaluate(call));
      if (&setting == &settings.front()) {
        first = hash;
        all.add(hash);
        if (verbose) std::printf("%016llx  %s\n", static_cast<unsigned long long>(hash), c.name);
      } else if (hash != first) {
        std::fprintf(stderr, "%s: %016llx with %d threads and %s, but %016llx with %d and %s\n", c.name,
                     static_cast<unsigned long long>(hash), setting.threads, setting.text,
                     static_cast<unsigned long long>(first), settings.front().threads, settings.front().text);
        ++differing;
      }
    }
  }
  std::printf("%016llx\n", static_cast<unsigned long long>(all.state));
  return differing == 0 ? 0 : 1;
}
