// Times the routed experts' forward pass at decode sizes against the bytes of the touched experts' weights.
//   moeref_cuda_decode_bench [--repeat N] [--tokens N,N...] [--format WORD]... [--rows] [shape]...
// Shapes: qwen3_30b, qwen3_235b (128 experts), dsv3 (256 experts), 8 slots each. Formats: none and those of
// SPEC.md 11; all where none is named. --rows: the rows of fp8_e4m3_block128 are codes, too, of
// fp8_e4m3_group128, with the accumulator e8m13_promoted128; "numbers" adds theirs up in float32.
//
// A graph of eight passes with routings of their own is replayed, so that neither launches from the host nor
// weights that are still in L2 count. Bytes are codes and scales, or numbers, of the experts that a pass
// touches, once; share is of the rate at which the device copies, bytes read and written. "tiles" is the path
// taken where rows are many, "numbers" the one that turns all codes into numbers first. Results of the paths
// are compared: a relative difference beyond 1e-2 is an error; with --rows beyond 5e-2, since codes of A'
// that lie near a boundary change with its last bit.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "cuda_impl/experts/layout.hpp"
#include "cuda_impl/grouped_gemm/product_kinds.hpp"
#include "cuda_impl/quantization/format_facts.hpp"
#include "moeref/cuda/experts.hpp"
#include "reference_cpu/include/moeref/weight_format.hpp"
#include "tools/bench/cuda/device_timing.hpp"
#include "tools/bench/cuda/program.hpp"

namespace moeref::cuda::bench {
namespace {

constexpr Shape kShapes[] = {{"qwen3_30b", 0, 2048, 768, 128, 8},
                             {"qwen3_235b", 0, 4096, 1536, 128, 8},
                             {"dsv3", 0, 7168, 2048, 256, 8}};
constexpr int kRoutings = 8;

__global__ void fill_bytes(unsigned char* out, std::size_t n, unsigned mask, unsigned base) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n;
       i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned long long z = (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    out[i] = static_cast<unsigned char>(base + (z >> 40 & mask));
  }
}
void fill(DeviceBuffer<char>& to, std::size_t n, unsigned mask, unsigned base) {
  fill_bytes<<<1024, 256>>>(reinterpret_cast<unsigned char*>(to.data), n, mask, base);
  check(cudaGetLastError(), "fill_bytes");
}

__global__ void copy_words(const uint4* from, uint4* to, std::size_t n) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n;
       i += std::size_t{gridDim.x} * blockDim.x)
    to[i] = __ldcs(from + i);
}

struct Extents {
  std::size_t experts, k, n;
};

/// One matrix of all experts.
struct Stored {
  std::size_t code_bytes, scale_bytes;
  DeviceBuffer<char> codes, scales;
  DeviceBuffer<float> experts;

  static std::size_t bytes_of_codes(WeightFormat f, const Extents& s) {
    return s.experts * s.k * s.n * (f == WeightFormat::none ? 16 : facts(f).bits()) / 8;
  }
  static std::size_t bytes_of_scales(WeightFormat format, const Extents& s) {
    if (format == WeightFormat::none) return 0;
    const FormatFacts f = facts(format);
    const std::size_t count =
        s.experts * ((s.n + f.block_n - 1) / f.block_n) * ((s.k + f.block_k - 1) / f.block_k);
    return count * (f.scale == ScaleKind::float32 ? 4 : f.scale == ScaleKind::bfloat16 ? 2 : 1);
  }
  Stored(WeightFormat format, const Extents& s)
      : code_bytes(bytes_of_codes(format, s)),
        scale_bytes(bytes_of_scales(format, s)),
        codes(code_bytes),
        scales(scale_bytes),
        experts(s.experts) {
    if (format == WeightFormat::none) {
      fill_normal(codes.data, s.experts * s.k * s.n, DataType::bfloat16, 0.02f, 5, nullptr);
      return;
    }
    const FormatFacts f = facts(format);
    fill(codes, code_bytes, f.code == CodeKind::e4m3 ? 0xbf : 0xff, 0);  // no NaN
    switch (f.scale) {
      case ScaleKind::float32:
        fill_normal(scales.data, scale_bytes / 4, DataType::float32, 0.02f, 6, nullptr);
        break;
      case ScaleKind::bfloat16:
        fill_normal(scales.data, scale_bytes / 2, DataType::bfloat16, 0.02f, 6, nullptr);
        break;
      case ScaleKind::e8m0:
        fill(scales, scale_bytes, 3, 119);
        break;
      case ScaleKind::e4m3:
        fill(scales, scale_bytes, 15, 24);
        break;
    }
    fill_normal(experts.data, s.experts, DataType::float32, 0.1f, 7, nullptr);
  }
  WeightScales all_scales() const { return {scales.data, experts.data}; }
  double bytes() const { return static_cast<double>(code_bytes + scale_bytes); }
};

std::vector<int> routing(std::mt19937& rng, const Shape& s, int tokens) {
  std::vector<int> order(static_cast<std::size_t>(s.experts)), ids;
  std::iota(order.begin(), order.end(), 0);
  for (int t = 0; t < tokens; ++t)
    for (int j = 0; j < s.slots; ++j) {
      std::swap(order[j], order[j + rng() % (s.experts - j)]);
      ids.push_back(order[j]);
    }
  return ids;
}

struct Stream {
  cudaStream_t stream;
  Stream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(stream); }
};

/// Median time of one of the `count` things that `enqueue` puts on the stream, in microseconds.
template <class F>
double replayed_us(int repeat, int count, const F& enqueue) {
  const Stream s;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < count; ++i) enqueue(i, s.stream);
  check(cudaStreamEndCapture(s.stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < repeat + 2; ++i) {
    check(cudaEventRecord(begin, s.stream), "event");
    check(cudaGraphLaunch(exec, s.stream), "cudaGraphLaunch");
    check(cudaEventRecord(end, s.stream), "event");
    check(cudaEventSynchronize(end), "a timed pass");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 2) times.push_back(ms);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end), cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return 1e3 * times[times.size() / 2] / count;
}

double copy_rate(int repeat) {
  constexpr std::size_t kBytes = std::size_t{2} << 30;
  const NormalBuffer from(kBytes / 2, 1, 1);
  const DeviceBuffer<char> to(kBytes);
  const double us = replayed_us(repeat, 1, [&](int, cudaStream_t stream) {
    copy_words<<<kBytes / 16 / 512, 512, 0, stream>>>(reinterpret_cast<const uint4*>(from.data),
                                                      reinterpret_cast<uint4*>(to.data), kBytes / 16);
    check(cudaGetLastError(), "copy_words");
  });
  return 2.0 * kBytes / us;  // bytes a microsecond
}

struct Options {
  int repeat = 20;
  std::vector<int> tokens{1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
  std::vector<WeightFormat> formats;
  bool rows = false;  // of codes, where the format has such products
  std::vector<std::string> shapes;
};

float to_number(unsigned short bits) {
  const unsigned word = unsigned{bits} << 16;
  float out;
  std::memcpy(&out, &word, 4);
  return out;
}

void measure(const Shape& s, WeightFormat format, const Options& options, double rate) {
  const char* word = moeref::facts(static_cast<moeref::WeightFormat>(format)).name.data();
  const auto D = static_cast<std::size_t>(s.dim), I = static_cast<std::size_t>(s.inter_dim),
             E = static_cast<std::size_t>(s.experts);
  const Stored up(format, {E, D, 2 * I}), down(format, {E, I, D});
  const ExpertsWeights w{up.codes.data, down.codes.data, nullptr,
                         nullptr,       up.all_scales(), down.all_scales()};
  for (const int tokens : options.tokens) {
    ExpertsConfig c{tokens, s.dim, s.inter_dim, s.experts, s.slots};
    c.weight_format = format;
    const bool coded_rows = options.rows && format == WeightFormat::fp8_e4m3_block128;
    if (coded_rows)
      c.activation_format = ActivationFormat::fp8_e4m3_group128,
      c.accumulator = Accumulator::e8m13_promoted128;
    const ExpertsPath automatic = selected_path(c);
    const std::size_t R = static_cast<std::size_t>(tokens) * s.slots;
    std::mt19937 rng(static_cast<unsigned>(tokens));
    std::vector<int> ids;
    double touched = 0;
    for (int i = 0; i < kRoutings; ++i) {
      const std::vector<int> one = routing(rng, s, tokens);
      touched += static_cast<double>(std::set<int>(one.begin(), one.end()).size()) / kRoutings;
      ids.insert(ids.end(), one.begin(), one.end());
    }
    const NormalBuffer x(tokens * D, 1, 1);
    const DeviceBuffer<int> d_ids(ids.size());
    const DeviceBuffer<float> weights(R);
    fill_normal(weights.data, R, DataType::float32, 1.0f / s.slots, 9, nullptr);
    check(cudaMemcpy(d_ids.data, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
    const double bytes = touched * (up.bytes() + down.bytes()) / s.experts;
    std::vector<std::vector<unsigned short>> results;
    std::printf("| %s | %s | %d | %.0f | %.0f |", s.name, word, tokens, touched, bytes / 1e6);
    ExpertsConfig many = c;
    many.tokens = 1 << 20;
    if (!coded_rows) many.weight_format = WeightFormat::none;
    const ExpertsPath tiles = selected_path(many);
    const ExpertsPath by_numbers =
        is_wgmma(tiles) && !coded_rows ? ExpertsPath::wgmma : ExpertsPath::portable;
    for (const ExpertsPath path : {ExpertsPath::few_rows, tiles, by_numbers}) {
      c.path = path;
      const bool few = path == ExpertsPath::few_rows, numbers = path == by_numbers;
      if ((few && (tokens > 2048 || coded_rows)) || (numbers && format == WeightFormat::none)) {
        std::printf(" | |");
        continue;
      }
      const DeviceBuffer<char> output(tokens * D * 2), memory(forward_workspace_bytes(c));
      check(cudaDeviceSynchronize(), "buffers");
      const double us = replayed_us(options.repeat, kRoutings, [&](int i, cudaStream_t stream) {
        experts_forward(c, w, {x.data, d_ids.data + i * R, weights.data, nullptr}, output.data, nullptr,
                        memory.data, stream);
      });
      std::printf(" %.1f | %.2f |", us, bytes / us / rate);
      std::fflush(stdout);
      results.emplace_back(tokens * D);
      check(cudaMemcpy(results.back().data(), output.data, tokens * D * 2, cudaMemcpyDeviceToHost), "copy");
    }
    double differ = 0;  // of a path from the first one, the most
    for (std::size_t other = 1; other < results.size(); ++other) {
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < results[0].size(); ++i) {
        const double a = to_number(results[0][i]), b = to_number(results[other][i]);
        error += (a - b) * (a - b), norm += b * b;
      }
      if (!(error <= (coded_rows ? 25e-4 : 1e-4) * norm)) throw CudaError("the paths differ");
      differ = std::max(differ, std::sqrt(error / norm));
    }
    std::printf(" %s |", word_of(automatic));
    if (results.size() > 1) std::printf(" %.1e |", differ);
    std::printf("\n");
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--repeat") && i + 1 < argc) {
      options.repeat = std::max(1, std::atoi(argv[++i]));
    } else if (!std::strcmp(argv[i], "--tokens") && i + 1 < argc) {
      options.tokens.clear();
      for (char* at = std::strtok(argv[++i], ","); at; at = std::strtok(nullptr, ","))
        options.tokens.push_back(std::max(1, std::atoi(at)));
    } else if (!std::strcmp(argv[i], "--rows")) {
      options.rows = true;
    } else if (!std::strcmp(argv[i], "--format") && i + 1 < argc) {
      const std::string word = argv[++i];
      bool known = false;
      for (const auto& row : moeref::kWeightFormats)
        if (row.name == word) options.formats.push_back(static_cast<WeightFormat>(row.kind)), known = true;
      if (!known) throw ArgumentError("--format is '" + word + "': want none or one of SPEC.md 11");
    } else {
      options.shapes.push_back(argv[i]);
    }
  }
  if (options.formats.empty())
    for (const auto& row : moeref::kWeightFormats)
      options.formats.push_back(static_cast<WeightFormat>(row.kind));
  const double rate = copy_rate(options.repeat);
  std::printf("copy %.2f TB/s, medians of %d\n\n", rate / 1e6, options.repeat);
  std::printf(
      "| shape | format | T | experts | MB | few_rows us | share | tiles us | share | numbers us | share | "
      "chosen | differ |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Shape& s : kShapes)
    for (const WeightFormat format : options.formats)
      if (options.shapes.empty() ||
          std::find(options.shapes.begin(), options.shapes.end(), s.name) != options.shapes.end())
        measure(s, format, options, rate);
  return 0;
}

}  // namespace
}  // namespace moeref::cuda::bench

int main(int argc, char** argv) {
  return moeref::cuda::bench::run_program("moeref_cuda_decode_bench", moeref::cuda::bench::run, argc, argv);
}
