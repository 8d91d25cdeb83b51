// Times the routed experts, whole and by product, against the same flops as dense cuBLAS products in the same
// run.
//   moeref_cuda_bench [--json FILE] [--repeat N] [--path automatic|few_rows|wgmma_clusters|wgmma|portable]
//                     [--dtype bfloat16|float16|float32] [--beside-block] [--beside CMD] [--verify]
//                     [shape]...
// --beside-block times forward and forward + backward again while a block of 32 threads that only waits holds
// a multiprocessor, and gives held / free.
// --beside times another program's experts in turn with ours and the dense products, one pass after another
// (tools/bench/peer.hpp).
// --verify judges what the timed passes gave, on a few tokens, by the reference's bounds.
// TF counts 6 T k D I flops forward and 12 backward; share = time of the dense equivalent / time, where the
// dense equivalent of forward + backward is three times the forward one; the three are run in turn. Inputs
// alternate between two sets; each is larger than the L2.
#include <cublas_v2.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "cuda_impl/linear/blas_types.hpp"
#include "cuda_impl/permutation/permute.hpp"
#include "cuda_impl/permutation/unpermute.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/experts.hpp"
#include "tools/bench/cuda/beside_block.hpp"
#include "tools/bench/cuda/device_timing.hpp"
#include "tools/bench/cuda/program.hpp"
#include "tools/bench/cuda/sampled_experts.hpp"
#include "tools/bench/peer.hpp"

namespace moeref::cuda::bench {
namespace {

std::vector<double> medians(int repeat, const std::vector<Work>& works, double heat_seconds = 0.0) {
  std::vector<double> out;
  for (const Times& times : time_in_turn(repeat, works, heat_seconds)) out.push_back(times.median_ms);
  return out;
}

/// Times of forward and of both passes, with all multiprocessors free, and beside a block that holds one.
const char* word_of(DataType type) {
  return type == DataType::bfloat16 ? "bfloat16" : type == DataType::float16 ? "float16" : "float32";
}

struct BesideTimes {
  std::vector<double> free, held;
};

BesideTimes beside_block(int repeat, const Work& forward, const Work& both) {
  BesideTimes out{{0, 0}, {0, 0}};
  constexpr int kTurns = 3;  // of free and held, so that both meet the same heat
  const auto add = [&](std::vector<double>& sums) {
    const std::vector<double> times = medians(repeat, {forward, both});
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += times[i] / kTurns;
  };
  for (int turn = 0; turn < kTurns; ++turn) {
    add(out.free);
    const BesideBlock block;
    add(out.held);
  }
  return out;
}

/// Medians of passes that lay between each other's.
struct PeerTimes {
  double dense = 0, forward = 0, both = 0;
  double peer_forward = 0, peer_both = 0;
};

PeerTimes beside_peer(int repeat, const Shape& s, DataType dtype, const Work& dense, const Work& forward,
                      const Work& both, Peer& peer) {
  peer.prepare({{"tokens", s.tokens},
                {"dim", s.dim},
                {"inter_dim", s.inter_dim},
                {"experts", s.experts},
                {"slots", s.slots},
                {"dtype", word_of(dtype)}});
  std::vector<double> times[5];
  for (int i = -3; i < repeat; ++i) {  // three rounds to warm up
    const double round[] = {once_ms(dense, i + 3), once_ms(forward, i + 3), peer.run("forward"),
                            once_ms(both, i + 3), peer.run("forward+backward")};
    for (int k = 0; k < 5 && i >= 0; ++k) times[k].push_back(round[k]);
  }
  return {median(times[0]), median(times[1]), median(times[3]), median(times[2]), median(times[4])};
}

/// One launch. flops 0: it multiplies nothing.
struct Part {
  const char* name;
  double flops, ms, dense_ms;  // dense: one product of the same extents over all rows
};

/// Seconds of the same works before their times are taken.
constexpr double kHeat = 1.0;

struct Result {
  const Shape* shape;
  const char* path;
  double imbalance, dense, forward, both, dense_moved;
  BesideTimes beside;
  PeerTimes peer;
  std::vector<Part> parts;
};

Result measure(const Shape& s, ExpertsPath wanted, DataType dtype, int repeat, bool beside, bool verify,
               Peer* peer, cublasHandle_t blas) {
  ExpertsConfig c{s.tokens, s.dim, s.inter_dim, s.experts, s.slots};
  c.dtype = dtype;
  c.path = wanted;
  c.path = selected_path(c);
  const std::size_t T = s.tokens, D = s.dim, I = s.inter_dim, E = s.experts, R = T * s.slots;
  std::mt19937 rng(7);
  std::vector<int> ids(R), order(E), load(E);
  for (std::size_t e = 0; e < E; ++e) order[e] = int(e);
  for (std::size_t t = 0; t < T; ++t)
    for (int j = 0; j < s.slots; ++j) {
      std::swap(order[j], order[j + rng() % (E - j)]);
      ids[t * s.slots + j] = order[j], ++load[order[j]];
    }
  const std::vector<float> weights(R, 1.0f / s.slots);
  NormalBuffer x0(T * D, 1, 1, dtype), x1(T * D, 1, 2, dtype), dy0(T * D, 1, 3, dtype),
      dy1(T * D, 1, 4, dtype);
  NormalBuffer gate_up(E * D * 2 * I, 0.02f, 5, dtype), down(E * I * D, 0.02f, 6, dtype);
  DeviceBuffer<int> d_ids(R);
  DeviceBuffer<float> d_weights(R), dw(R);
  const std::size_t bytes = bytes_of(dtype);
  DeviceBuffer<char> output(T * D * bytes), dx(T * D * bytes), dgate_up(E * D * 2 * I * bytes),
      ddown(E * I * D * bytes);
  DeviceBuffer<char> saved(saved_bytes(c)), forward_memory(forward_workspace_bytes(c)),
      backward_memory(backward_workspace_bytes(c));
  check(cudaMemcpy(d_ids.data, ids.data(), R * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
  check(cudaMemcpy(d_weights.data, weights.data(), R * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
  const ExpertsWeights w{gate_up.data, down.data, nullptr, nullptr};
  const ExpertsGradients g{dx.data, dw.data, dgate_up.data, ddown.data, nullptr, nullptr};
  const auto input = [&](int i) {
    return ExpertsInput{i % 2 ? x1.data : x0.data, d_ids.data, d_weights.data, nullptr};
  };
  const auto dy = [&](int i) { return i % 2 ? dy1.data : dy0.data; };

  // Row-major C = A B is column-major C' = B' A'. Operands: random bits of the buffers above, as large as the
  // dense layer's.
  NormalBuffer dense_x(R * D, 1, 8, dtype), dense_a(R * I, 1, 9, dtype), dense_h(R * 2 * I, 1, 10, dtype);
  DeviceBuffer<char> dense_out(std::max({R * std::max(D, 2 * I), I * D, D * 2 * I}) * bytes);
  const BlasTypes types = blas_types(dtype);
  const float one = 1, zero = 0;
  const auto dense = [&](const void* a, const void* b, void* out, std::size_t m, std::size_t k,
                         std::size_t n) {
    check(cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, int(n), int(m), int(k), &one, b, types.matrix, int(n),
                       a, types.matrix, int(k), &zero, out, types.matrix, int(n), types.compute,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
  };
  const TokenChunks chunks = one_chunk(c);
  const ForwardWorkspace fw = laid_out<ForwardWorkspace>(forward_memory.data, c, chunks);
  const Saved keep = laid_out<Saved>(saved.data, c, chunks);
  const BackwardWorkspace bw = laid_out<BackwardWorkspace>(backward_memory.data, c, RowsOfX::with_dy);
  const Permutation p = carve_permutation(permutation_shape(c, c.path, chunks), keep.permutation);
  const GroupedShape shape = grouped_shape(c, c.path, p, bw.tickets);

  Result r{&s,
           product_kind(c.path).name,
           *std::max_element(load.begin(), load.end()) * double(E) / double(R),
           0,
           0,
           0,
           0,
           {},
           {},
           {}};
  const Work forward = [&](int i) {
    experts_forward(c, w, input(i), output.data, nullptr, forward_memory.data, nullptr);
  };
  const Work both = [&](int i) {
    experts_forward(c, w, input(i), output.data, saved.data, forward_memory.data, nullptr);
    experts_backward(c, w, input(i), dy(i), saved.data, g, backward_memory.data, nullptr);
  };
  const Work dense_forward = [&](int) {
    dense(dense_x.data, w.gate_and_up, keep.h, R, D, 2 * I);
    dense(dense_a.data, w.down, fw.rows, R, I, D);
  };
  const std::vector<Times> whole = time_in_turn(repeat, {dense_forward, forward, both}, kHeat);
  if (verify) {
    both(0);
    check(cudaDeviceSynchronize(), "passes to verify");
    const double ratio = largest_ratio({s, dtype, ids, d_weights.data, input(0).x, dy(0), w.gate_and_up,
                                        w.down, output.data, dx.data, dw.data});
    std::printf("%s: sampled rows of output and gradients are within %.2f of their bounds\n", s.name, ratio);
  }
  if (beside) r.beside = beside_block(repeat, forward, both);
  if (peer) r.peer = beside_peer(repeat, s, dtype, dense_forward, forward, both, *peer);
  r.dense = whole[0].median_ms, r.forward = whole[1].median_ms, r.both = whole[2].median_ms;
  r.dense_moved = whole[0].moved;

  // Extents m, k, n of the dense product that a grouped one is held against.
  struct Launch {
    const char* name;
    Work run;
    const void *left, *right;
    std::size_t m, k, n;
  };
  const Launch launches[] = {
      {"sort",
       [&](int) {
         sort_by_expert(permutation_shape(c, c.path, chunks), d_ids.data, d_weights.data, nullptr, p, fw.sort,
                        nullptr);
       }},
      {"permute",
       [&](int i) {
         permute(c.dtype, input(i).x, p.slot_row, all_tokens(T), s.slots, s.dim, bw.rows, nullptr);
       }},
      {"up",
       [&](int i) {
         const bool gathering_x = gathers(c, c.path);
         if (gathering_x)
           check(
               cudaMemsetAsync(fw.arrivals, 0, arrivals_bytes(permutation_shape(c, c.path, chunks)), nullptr),
               "cudaMemsetAsync");
         up_product(gathering(shape, fw.arrivals),
                    {gathering_x ? input(i).x : nullptr, bw.rows, w.gate_and_up, nullptr, keep.h, fw.a, true},
                    c.activation, {}, nullptr);
       },
       dense_x.data, w.gate_and_up, R, D, 2 * I},
      {"down",
       [&](int) {
         down_product(shape, {fw.a, w.down, nullptr, fw.rows, false}, nullptr);
       },
       dense_a.data, w.down, R, I, D},
      {"unpermute",
       [&](int) { unpermute(c.dtype, fw.rows, p.slot_row, T, s.slots, s.dim, output.data, nullptr); }},
      {"d_act",
       [&](int) {
         down_gradient_product(shape, {bw.rows, w.down, keep.h, bw.dh, bw.a, bw.dot_parts}, c.activation, {},
                               nullptr);
       },
       dense_x.data, w.down, R, D, I},
      {"dW_down",
       [&](int) {
         weight_gradient_product(shape, {bw.a, bw.rows, s.inter_dim, s.dim, ddown.data}, nullptr);
       },
       dense_a.data, dense_x.data, I, R, D},
      {"dW_up",
       [&](int) {
         weight_gradient_product(shape, {bw.rows, bw.dh, s.dim, 2 * s.inter_dim, dgate_up.data}, nullptr);
       },
       dense_x.data, dense_h.data, D, R, 2 * I},
      {"dX",
       [&](int) {
         input_gradient_product(shape, {bw.dh, w.gate_and_up, nullptr, bw.rows, false}, 2 * s.inter_dim,
                                nullptr);
       },
       dense_h.data, w.gate_and_up, R, 2 * I, D}};
  std::vector<Work> works;
  for (const Launch& launch : launches) {
    works.push_back(launch.run);
    if (launch.left)
      works.push_back([&, launch](int) {
        dense(launch.left, launch.right, dense_out.data, launch.m, launch.k, launch.n);
      });
  }
  const std::vector<double> times = medians(repeat, works, kHeat);
  std::size_t at = 0;
  for (const Launch& launch : launches) {
    Part part{launch.name, 2.0 * double(launch.m) * double(launch.k) * double(launch.n), times[at++], 0};
    if (launch.left) part.dense_ms = times[at++];
    r.parts.push_back(part);
  }
  return r;
}

void write_json(const char* path, const std::vector<Result>& results, const cudaDeviceProp& device,
                int driver, int repeat) {
  FILE* f = std::fopen(path, "w");
  if (!f) throw ArgumentError(std::string("--json: cannot write ") + path);
  std::fprintf(f, "{\"device\": \"%s\", \"driver_cuda\": %d, \"toolkit\": %d, \"repeat\": %d, \"results\": [",
               device.name, driver, CUDART_VERSION, repeat);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Result& r = results[i];
    std::fprintf(f,
                 "%s\n  {\"shape\": \"%s\", \"path\": \"%s\", \"imbalance\": %.4f, \"dense_ms\": %.4f, "
                 "\"forward_ms\": %.4f, "
                 "\"both_ms\": %.4f",
                 i ? "," : "", r.shape->name, r.path, r.imbalance, r.dense, r.forward, r.both);
    for (const Part& part : r.parts) {
      std::fprintf(f, ", \"%s_ms\": %.4f", part.name, part.ms);
      if (part.flops > 0) std::fprintf(f, ", \"%s_dense_ms\": %.4f", part.name, part.dense_ms);
    }
    std::fprintf(f, "}");
  }
  std::fprintf(f, "\n]}\n");
  std::fclose(f);
}

ExpertsPath parse_path(const std::string& text) {
  std::string words = word_of(ExpertsPath::automatic);
  if (text == words) return ExpertsPath::automatic;
  for (const ProductKind& kind : kProductKinds) {
    if (text == kind.word) return kind.path;
    words += std::string(", ") + kind.word;
  }
  throw ArgumentError("--path is '" + text + "': want one of " + words);
}

DataType parse_dtype(const std::string& text) {
  for (const DataType type : {DataType::bfloat16, DataType::float16, DataType::float32})
    if (text == word_of(type)) return type;
  throw ArgumentError("--dtype is '" + text + "': want bfloat16, float16 or float32");
}

int run(int argc, char** argv) {
  const char* json = nullptr;
  int repeat = 10;
  ExpertsPath path = ExpertsPath::automatic;
  DataType dtype = DataType::bfloat16;
  bool beside = false;
  bool verify = false;
  std::string peer_command;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--json") && i + 1 < argc)
      json = argv[++i];
    else if (!std::strcmp(argv[i], "--repeat") && i + 1 < argc)
      repeat = std::max(1, std::atoi(argv[++i]));
    else if (!std::strcmp(argv[i], "--path") && i + 1 < argc)
      path = parse_path(argv[++i]);
    else if (!std::strcmp(argv[i], "--dtype") && i + 1 < argc)
      dtype = parse_dtype(argv[++i]);
    else if (!std::strcmp(argv[i], "--beside-block"))
      beside = true;
    else if (!std::strcmp(argv[i], "--verify"))
      verify = true;
    else if (!std::strcmp(argv[i], "--beside") && i + 1 < argc)
      peer_command = argv[++i];
    else
      names.push_back(argv[i]);
  }
  const std::vector<Shape> shapes = shapes_named(names);
  cudaDeviceProp device;
  int driver = 0;
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  cublasHandle_t blas;
  if (cublasCreate(&blas) != CUBLAS_STATUS_SUCCESS) throw CudaError("cublasCreate failed");
  std::printf("%s, driver for CUDA %d, toolkit %d, medians of %d\n\n", device.name, driver, CUDART_VERSION,
              repeat);
  std::printf(
      "| shape | kernels | imbalance | dense ms (TF) | forward ms (TF) | share | f+b ms (TF) | share "
      "|\n|---|---|---|---|---|---|---|---|\n");
  std::unique_ptr<Peer> peer;
  if (!peer_command.empty()) peer = std::make_unique<Peer>(peer_command, std::chrono::seconds(10));
  std::vector<Result> results;
  for (const Shape& s : shapes) {
    const Result r = measure(s, path, dtype, repeat, beside, verify, peer.get(), blas);
    const double tf = 6e-9 * s.tokens * s.slots * double(s.dim) * s.inter_dim;
    std::printf("| %s | %s | %.2f | %.3f (%.0f) | %.3f (%.0f) | %.3f | %.3f (%.0f) | %.3f |\n", s.name,
                r.path, r.imbalance, r.dense, tf / r.dense, r.forward, tf / r.forward, r.dense / r.forward,
                r.both, 3 * tf / r.both, 3 * r.dense / r.both);
    std::fflush(stdout);
    if (r.dense_moved > 0.03)
      std::printf("dense products moved by %.1f %%: do not compare these shares\n", 100 * r.dense_moved);
    results.push_back(r);
  }
  if (beside)
    std::printf(
        "\nBeside a block of 32 threads that holds a multiprocessor:\n\n| shape | forward ms "
        "free, "
        "held | ratio | f+b ms free, held | ratio |\n|---|---|---|---|---|\n");
  for (const Result& r : results)
    if (const auto& [free, held] = r.beside; beside)
      std::printf("| %s | %.3f, %.3f | %.3f | %.3f, %.3f | %.3f |\n", r.shape->name, free[0], held[0],
                  held[0] / free[0], free[1], held[1], held[1] / free[1]);
  if (peer)
    std::printf(
        "\nBeside %s, pass by pass:\n\n| shape | forward ms ours, its | times as fast | its share of dense | "
        "f+b ms ours, its | times as fast | its share |\n|---|---|---|---|---|---|---|\n",
        peer_command.c_str());
  for (const Result& r : results)
    if (const PeerTimes& t = r.peer; peer)
      std::printf("| %s | %.3f, %.3f | %.2f | %.3f | %.3f, %.3f | %.2f | %.3f |\n", r.shape->name, t.forward,
                  t.peer_forward, t.peer_forward / t.forward, t.dense / t.peer_forward, t.both, t.peer_both,
                  t.peer_both / t.both, 3 * t.dense / t.peer_both);
  std::printf("\nLaunches, ms (TF, share of a dense product of the same extents in the same rounds):\n");
  for (const Result& r : results) {
    std::printf("%-10s", r.shape->name);
    for (const Part& part : r.parts) {
      std::printf(" %s %.3f", part.name, part.ms);
      if (part.flops > 0) std::printf(" (%.0f, %.2f)", part.flops / part.ms * 1e-9, part.dense_ms / part.ms);
    }
    std::printf("\n");
  }
  if (json) write_json(json, results, device, driver, repeat);
  cublasDestroy(blas);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_bench", moeref::cuda::bench::run, argc, argv);
}
