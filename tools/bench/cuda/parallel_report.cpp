#include "tools/bench/cuda/parallel_report.hpp"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda::bench {
namespace {

std::string ratio(double a, double b) {
  if (a <= 0 || b <= 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", a / b);
  return text;
}
std::string milliseconds(double ms) {
  if (ms <= 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", ms);
  return text;
}

nlohmann::json json_of(const ShapeTimes& r) {
  return {{"shape", r.shape},
          {"routing", r.routing},
          {"tokens", r.tokens},
          {"chunks", r.chunks},
          {"sent_mib", r.exchange.sent_mib},
          {"copy_ms", r.copy_ms},
          {"plan_ms", r.exchange.plan_ms},
          {"dispatch_ms", r.exchange.dispatch_ms},
          {"combine_ms", r.exchange.combine_ms},
          {"forward_ms", r.spread.forward_ms},
          {"both_ms", r.spread.both_ms},
          {"alone_forward_ms", r.alone.forward_ms},
          {"alone_both_ms", r.alone.both_ms}};
}
nlohmann::json json_of(const MessageTimes& m) {
  return {{"mib", m.mib},
          {"dispatch_ms", m.exchange.dispatch_ms},
          {"combine_ms", m.exchange.combine_ms},
          {"copy_ms", m.copy_ms},
          {"nccl_ms", m.nccl_ms}};
}

}  // namespace

void print_head(int ranks, int senders) {
  std::printf("\n%d ranks", ranks);
  if (senders < ranks) std::printf(", %d of them with tokens", senders);
  std::printf(
      "\n\n| shape | routing | tokens a rank | chunks | MiB sent | copy ms | plan ms | dispatch ms | of copy "
      "| combine ms | of copy | forward ms | of one device | f+b ms | of one device |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}

void print(const ShapeTimes& r) {
  const ExchangeTimes& e = r.exchange;
  std::printf("| %s | %s | %lld | %d | %.1f | %.3f | %.3f | %.3f | %s | %.3f | %s | %s | %s | %s | %s |\n",
              r.shape.c_str(), r.routing.c_str(), static_cast<long long>(r.tokens), r.chunks, e.sent_mib,
              r.copy_ms, e.plan_ms, e.dispatch_ms, ratio(r.copy_ms, e.dispatch_ms).c_str(), e.combine_ms,
              ratio(r.copy_ms, e.combine_ms).c_str(), milliseconds(r.spread.forward_ms).c_str(),
              ratio(r.spread.forward_ms, r.alone.forward_ms).c_str(), milliseconds(r.spread.both_ms).c_str(),
              ratio(r.spread.both_ms, r.alone.both_ms).c_str());
  std::fflush(stdout);
}

void print_stand_in_head(int ranks) {
  std::printf(
      "\nTwo ranks in place of one of %d, experts alone\n\n"
      "| shape | chunks | tokens that leave | slots | forward ms | of one device | f+b ms | of one device |\n"
      "|---|---|---|---|---|---|---|---|\n",
      ranks);
}

void print(const std::string& shape, int chunks, const StandIn& r) {
  std::printf("| %s | %d | %lld | %d | %.3f | %s | %.3f | %s |\n", shape.c_str(), chunks,
              static_cast<long long>(r.tokens), r.slots, r.spread.forward_ms,
              ratio(r.spread.forward_ms, r.alone.forward_ms).c_str(), r.spread.both_ms,
              ratio(r.spread.both_ms, r.alone.both_ms).c_str());
  std::fflush(stdout);
}

void print_message_head() {
  std::printf(
      "\n| MiB a peer | dispatch ms | GB/s | combine ms | GB/s | copy to one peer ms | GB/s | NCCL "
      "all-to-all ms | GB/s |\n"
      "|---|---|---|---|---|---|---|---|---|\n");
}

void print(const MessageTimes& m) {
  const auto rate = [](double mib, double ms) { return ms > 0 ? mib * 1.048576 / ms : 0; };
  const ExchangeTimes& e = m.exchange;
  std::printf("| %g | %.4f | %.0f | %.4f | %.0f | %.4f | %.0f | %.4f | %.0f |\n", m.mib, e.dispatch_ms,
              rate(e.sent_mib, e.dispatch_ms), e.combine_ms, rate(e.sent_mib, e.combine_ms), m.copy_ms,
              rate(m.mib, m.copy_ms), m.nccl_ms, rate(e.sent_mib, m.nccl_ms));
  std::fflush(stdout);
}

void write_json(const std::string& path, const std::vector<RanksTimes>& all) {
  nlohmann::json out = nlohmann::json::array();
  for (const RanksTimes& one : all) {
    nlohmann::json shapes = nlohmann::json::array(), messages = nlohmann::json::array();
    for (const ShapeTimes& r : one.shapes) shapes.push_back(json_of(r));
    for (const MessageTimes& m : one.messages) messages.push_back(json_of(m));
    out.push_back({{"ranks", one.ranks},
                   {"senders", one.senders},
                   {"expert_parallelism", shapes},
                   {"messages", messages}});
  }
  std::ofstream file(path);
  file << out.dump(1) << "\n";
  if (!file.flush()) throw ArgumentError("--json: cannot write " + path);
}

}  // namespace moeref::cuda::bench
