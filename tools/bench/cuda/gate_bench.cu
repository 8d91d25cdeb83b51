// Times the gate, forward and backward, and by launch; and the components around it.
//   moeref_cuda_gate_bench [--json FILE] [--repeat N] [shape]...
// floor = max(bytes / 4.3 TB/s, flops / 790 TF): forward reads x and the weight, backward also writes dx;
// share = floor / time. Inputs alternate between two sets.
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "cuda_impl/aux_loss/statistics.hpp"
#include "cuda_impl/gate/layout.hpp"
#include "moeref/cuda/bias_update.hpp"
#include "moeref/cuda/fake_balanced_gate.hpp"
#include "moeref/cuda/init.hpp"
#include "moeref/cuda/metrics.hpp"
#include "tools/bench/cuda/device_timing.hpp"
#include "tools/bench/cuda/program.hpp"

namespace moeref::cuda::bench {
namespace {

struct Variant {
  const char* name;
  ScoreFunction score;
  std::optional<DataType> precision;
  bool aux, grouped;
  DataType parameters = DataType::bfloat16;
};
constexpr Variant kVariants[] = {
    {"softmax", ScoreFunction::softmax, std::nullopt, false, false},
    {"softmax, fp32 weights", ScoreFunction::softmax, std::nullopt, false, false, DataType::float32},
    {"softmax, aux loss", ScoreFunction::softmax, std::nullopt, true, false},
    {"sigmoid, groups, fp32", ScoreFunction::sigmoid, DataType::float32, false, true},
    {"the same, fp32 weights", ScoreFunction::sigmoid, DataType::float32, false, true, DataType::float32}};

struct Row {
  std::string shape, variant;
  double forward, forward_share, backward, backward_share, product, routing, finish;
};

Row measure(const Shape& s, const Variant& v, int repeat) {
  GateConfig c{s.tokens, s.dim, s.experts, s.slots, v.score};
  c.precision = v.precision;
  c.parameter_type = v.parameters;
  c.norm_topk_prob = true;
  c.aux_loss_coeff = v.aux ? 0.01 : 0.0;
  if (v.grouped && s.experts >= 64) c.groups = 8, c.limited_groups = 4;
  const std::size_t T = s.tokens, D = s.dim, E = s.experts, slots = T * s.slots;
  NormalBuffer x0(T * D, 1, 1), x1(T * D, 1, 2), weight(E * D, 1.0f / 45, 3, v.parameters), dw(slots, 1, 4);
  DeviceBuffer<float> correction(E), aux_loss(1), weights(slots);
  DeviceBuffer<int> ids(slots);
  DeviceBuffer<std::int64_t> load(E);
  DeviceBuffer<__nv_bfloat16> dx(T * D);
  DeviceBuffer<char> dweight(E * D * bytes_of(v.parameters));
  DeviceBuffer<char> saved(gate_saved_bytes(c)), work(gate_forward_workspace_bytes(c)),
      back(gate_backward_workspace_bytes(c));
  const GateParameters w{weight.data, nullptr, v.grouped ? correction.data : nullptr};
  const auto input = [&](int i) { return GateInput{i % 2 ? x1.data : x0.data}; };
  GateOutput out{ids.data};
  out.weights_float = weights.data, out.load = load.data, out.aux_loss = aux_loss.data;

  Row r{s.name, v.name, 0, 0, 0, 0, 0, 0, 0};
  r.forward =
      median_ms(repeat, [&](int i) { gate_forward(c, w, input(i), out, saved.data, work.data, nullptr); });
  r.backward = median_ms(repeat, [&](int i) {
    gate_backward(c, w, input(i), ids.data, dw.data, DataType::bfloat16, saved.data, {dx.data, dweight.data},
                  back.data, nullptr);
  });
  const double bytes = 2.0 * D * (T + E), flops = 2.0 * T * D * E;
  const double forward_floor = std::max(bytes / 4.3e9, flops / 790e9);
  const double backward_floor = std::max(2 * bytes / 4.3e9, 2 * flops / 790e9);
  r.forward_share = forward_floor / r.forward;
  r.backward_share = backward_floor / r.backward;

  Arena scratch(work.data);
  const GateForwardWorkspace memory(scratch, c);
  const ProductShape shape = logits_shape(c);
  const TokenBlocks blocks = token_blocks(c);
  r.product = median_ms(repeat, [&](int i) {
    product(shape, {input(i).x, DataType::bfloat16, c.dim, 1},
            weight_operand(c, weight.data, memory.weight_planes, 1, c.dim, nullptr), c.compute_type(),
            {.partial = memory.partial_logits}, nullptr);
  });
  RouteOutput routed{};
  routed.ids = ids.data, routed.weights_type = DataType::bfloat16, routed.weights_float = weights.data;
  routed.logits = saved.data, routed.block_load = memory.block_load,
  routed.block_tokens = memory.block_tokens;
  routed.block_sums = v.aux ? memory.block_sums : nullptr;
  r.routing = median_ms(repeat, [&](int) {
    route_tokens(
        routing_rule(c, w.correction != nullptr), blocks, c.tokens,
        {memory.partial_logits, shape.splits, nullptr, DataType::bfloat16, w.correction, nullptr, nullptr},
        routed, nullptr);
  });
  r.finish = median_ms(repeat, [&](int) {
    finish_statistics(c.experts, c.loss_rule(),
                      {memory.block_load, memory.block_tokens, routed.block_sums, false, blocks.blocks},
                      {{nullptr, load.data, nullptr}, {}, v.aux ? aux_loss.data : nullptr, nullptr},
                      memory.sequences, nullptr);
  });
  return r;
}

std::vector<std::pair<std::string, double>> measure_others(int repeat) {
  constexpr std::int64_t tokens = 16384, elements = 100000000;
  constexpr int experts = 128, slots = 8, layers = 48;
  NormalBuffer scores(tokens * experts, 0.01f, 1);
  DeviceBuffer<int> ids(tokens * slots);
  DeviceBuffer<float> weights(tokens * slots), loss(1), master(experts), correction(experts);
  DeviceBuffer<std::int64_t> load(layers * experts), real_tokens(1);
  DeviceBuffer<double> metrics(2 * layers * experts + 4 * layers + kAggregates);
  DeviceBuffer<__nv_bfloat16> parameter(elements);
  const AuxLossConfig aux{tokens, experts, slots};
  DeviceBuffer<char> work(aux_loss_workspace_bytes(aux));
  std::vector<std::pair<std::string, double>> out;
  const auto time = [&](const char* name, const std::function<void(int)>& run) {
    out.emplace_back(name, median_ms(repeat, run));
  };
  FakeGateConfig fake{tokens, 2048, experts, slots};
  time("fake_balanced_gate",
       [&](int) { fake_balanced_gate(fake, scores.data, {}, ids.data, nullptr, weights.data, nullptr); });
  fake.noise = 0.5;
  time("fake_balanced_gate, noise",
       [&](int) { fake_balanced_gate(fake, scores.data, {}, ids.data, nullptr, weights.data, nullptr); });
  time("aux_loss forward", [&](int) {
    aux_loss_forward(aux, {scores.data, ids.data}, {real_tokens.data, load.data, nullptr}, loss.data, nullptr,
                     work.data, nullptr);
  });
  time("bias_update", [&](int) {
    update_correction_bias(experts, 0.001, load.data, 1, master.data, correction.data, nullptr);
  });
  double* m = metrics.data;
  const MetricsOutput to{m, m + layers, m + layers + layers * experts, m + 2 * layers + layers * experts,
                         m + 3 * layers + layers * experts};
  time("metrics, 48 layers", [&](int) { load_balance_metrics(layers, experts, load.data, to, nullptr); });
  time("init, 1e8 elements", [&](int) {
    init_normal(1, "experts.down_projs", 0.02, 0, elements, DataType::bfloat16, parameter.data, nullptr);
  });
  return out;
}

void write_json(const char* path, const std::vector<Row>& rows,
                const std::vector<std::pair<std::string, double>>& others) {
  FILE* f = std::fopen(path, "w");
  if (!f) throw ArgumentError(std::string("--json: cannot write ") + path);
  std::fprintf(f, "{\"gate\": [");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& r = rows[i];
    std::fprintf(
        f,
        "%s\n  {\"shape\": \"%s\", \"variant\": \"%s\", \"forward_ms\": %.5f, \"forward_share\": %.4f, "
        "\"backward_ms\": %.5f, \"backward_share\": %.4f, \"product_ms\": %.5f, \"routing_ms\": %.5f, "
        "\"finish_ms\": %.5f}",
        i ? "," : "", r.shape.c_str(), r.variant.c_str(), r.forward, r.forward_share, r.backward,
        r.backward_share, r.product, r.routing, r.finish);
  }
  std::fprintf(f, "\n], \"components\": {");
  for (std::size_t i = 0; i < others.size(); ++i)
    std::fprintf(f, "%s\n  \"%s\": %.5f", i ? "," : "", others[i].first.c_str(), others[i].second);
  std::fprintf(f, "\n}}\n");
  std::fclose(f);
}

int run(int argc, char** argv) {
  const char* json = nullptr;
  int repeat = 50;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--json") && i + 1 < argc)
      json = argv[++i];
    else if (!std::strcmp(argv[i], "--repeat") && i + 1 < argc)
      repeat = std::max(1, std::atoi(argv[++i]));
    else
      names.emplace_back(argv[i]);
  }
  const std::vector<Shape> shapes = shapes_named(names);
  std::printf(
      "| shape | gate | forward ms | share of floor | product | routing | finish | backward ms | share of "
      "floor |\n|---|---|---|---|---|---|---|---|---|\n");
  std::vector<Row> rows;
  for (const Shape& s : shapes) {
    for (const Variant& v : kVariants) {
      const Row r = measure(s, v, repeat);
      std::printf("| %s | %s | %.4f | %.2f | %.4f | %.4f | %.4f | %.4f | %.2f |\n", r.shape.c_str(),
                  r.variant.c_str(), r.forward, r.forward_share, r.product, r.routing, r.finish, r.backward,
                  r.backward_share);
      std::fflush(stdout);
      rows.push_back(r);
    }
  }
  std::printf("\n| component | ms |\n|---|---|\n");
  const auto others = measure_others(repeat);
  for (const auto& [name, ms] : others) std::printf("| %s | %.4f |\n", name.c_str(), ms);
  if (json) write_json(json, rows, others);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_gate_bench", moeref::cuda::bench::run, argc, argv);
}
