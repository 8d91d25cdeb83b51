// What the benchmark of expert parallelism says: a table by shape and one by message size for each number of
// ranks, and both as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/cuda/parallel_exchange.hpp"
#include "tools/bench/cuda/parallel_layer.hpp"
#include "tools/bench/cuda/parallel_stand_in.hpp"

namespace moeref::cuda::bench {

/// One shape with one routing; the layer's times are 0 where it was not timed.
struct ShapeTimes {
  std::string shape, routing;
  std::int64_t tokens;
  int chunks;
  double copy_ms;
  ExchangeTimes exchange;
  LayerTimes spread, alone;
};

/// All of one number of ranks.
struct RanksTimes {
  int ranks, senders;  // of which as many have tokens
  std::vector<ShapeTimes> shapes;
  std::vector<MessageTimes> messages;
};

/// To stdout; what was not measured is a dash; rows are flushed, so that a run that is cut off has said what
/// it found.
void print_head(int ranks, int senders);
void print(const ShapeTimes& row);
void print_stand_in_head(int ranks);
void print(const std::string& shape, int chunks, const StandIn& row);
void print_message_head();
void print(const MessageTimes& row);

/// Throws ArgumentError where the file cannot be written.
void write_json(const std::string& path, const std::vector<RanksTimes>& all);

}  // namespace moeref::cuda::bench
