#include "cuda_impl/expert_parallel/exchange_pass.hpp"

namespace moeref::cuda {
namespace {

constexpr std::size_t kMomentBytes = 4 << 20;  // travel in less time than the experts sort

}  // namespace

ExchangePass::ExchangePass(const ExpertParallelConfig& config, Group& group,
                           const ExpertParallelWindows& windows, cudaStream_t main)
    : config_(config),
      group_(group),
      windows_(windows),
      main_(main),
      side_(group.side()),
      in_(config),
      back_(config),
      shape_(dispatch_shape(config)),
      chunks_(token_chunks(config)),
      row_bytes_(static_cast<std::size_t>(config.experts.dim) * bytes_of(config.experts.dtype)) {}

ExpertsInput ExchangePass::received() const {
  const Window& kept = *windows_.kept;
  return {kept.received<char>(in_.x), kept.received<int>(in_.ids), kept.received<float>(in_.weights),
          nullptr};
}
const void* ExchangePass::received_d_output() const {
  return windows_.transient->received<char>(back_.d_output);
}

bool ExchangePass::routes_come_first() const {
  const auto rows = static_cast<std::size_t>(chunks_.range(0).count);
  return in_chunks() || rows * row_bytes_ > kMomentBytes || group_.needs_row_counts();
}

Delivery ExchangePass::rows_of(Region region, std::size_t row_bytes, RowRange range, Outbox outbox,
                               const int* used) const {
  return {region, row_bytes, range.first, range.count, outbox, fills_slots(config_) ? nullptr : used};
}

void ExchangePass::send_routes(const DispatchInput& input, const Sent& sent, void* workspace) {
  const Window& kept = *windows_.kept;
  sent_ = sent;
  plan_dispatch(
      shape_, input,
      {sent.place, sent.counts, kept.slots(in_.counts), kept.slots(in_.ids), kept.slots(in_.weights)},
      workspace, main_);
  const Delivery routes[] = {{in_.counts}, {in_.ids}, {in_.weights}};
  group_.send(kept, routes, nullptr, main_);
  if (routes_come_first()) group_.meet(main_);
  counts_ = group_.row_counts(kept, in_.counts, sent.counts, main_);
}

void ExchangePass::recall_routes(const Sent& sent) {
  sent_ = sent;
  counts_ = group_.row_counts(*windows_.kept, in_.counts, sent.counts, main_);
}

void ExchangePass::push(const void* rows, const Window& window, Region region) {
  pushed_ = {rows, &window, region};
  group_.wait(side_, group_.mark(main_));
  push_chunk(0);
  if (!routes_come_first()) group_.wait(main_, arrival_);
}

void ExchangePass::push_chunk(int chunk) {
  const Outbox outbox = outbox_of_rows(config_);
  const RowRange range = chunks_.range(chunk);
  push_rows(shape_, config_.experts.dtype, config_.experts.dim, pushed_.rows, sent_.place,
            pushed_.window->slots(pushed_.region, outbox), range, side_);
  const Delivery what[] = {rows_of(pushed_.region, row_bytes_, range, outbox, sent_.counts)};
  group_.deliver(*pushed_.window, what, counts_ ? &*counts_ : nullptr, side_);
  arrival_ = group_.mark(side_);
}

void ExchangePass::return_range(const ExpertRows& rows, RowRange range, Outbox outbox, const float* d_weights,
                                cudaStream_t sender) {
  const ExpertsConfig& e = config_.experts;
  const Window& transient = *windows_.transient;
  const int* received_counts = windows_.kept->received<int>(in_.counts);
  combine_to_ranks({received_counts, rows.slot_row, rows.rows, e.dtype, e.dim}, config_.max_tokens, e.slots,
                   {config_.ranks, group_.rank()}, range, transient.slots(back_.rows, outbox), d_weights,
                   transient.slots(back_.d_weights, outbox), main_);
  if (sender != main_) group_.wait(sender, group_.mark(main_));
  std::optional<RowCounts> returned = counts_;
  if (returned) std::swap(returned->to, returned->from);
  std::vector<Delivery> what{rows_of(back_.rows, row_bytes_, range, outbox, received_counts)};
  if (d_weights)
    what.push_back(rows_of(back_.d_weights, static_cast<std::size_t>(e.slots) * sizeof(float), range, outbox,
                           received_counts));
  group_.send(transient, what, returned ? &*returned : nullptr, sender);
}

void ExchangePass::return_rows(const ExpertRows& rows, void* out) {
  return_range(rows, {0, config_.max_tokens}, Outbox::direct, nullptr, main_);
  meet_and_sum(out);
}

void ExchangePass::send_back(const ExpertRows& rows, RowRange range, const float* d_weights) {
  return_range(rows, range, Outbox::staged, d_weights, side_);
}

void ExchangePass::sum_all(void* out) {
  group_.wait(main_, group_.mark(side_));
  meet_and_sum(out);
}

void ExchangePass::tell_rows_needed(const int* rows_needed) {
  if (!may_overflow()) return;
  const Window& transient = *windows_.transient;
  to_all_ranks(rows_needed, config_.ranks, transient.slots(back_.rows_needed), main_);
  const Delivery what[] = {{back_.rows_needed}};
  group_.send(transient, what, nullptr, main_);
  rows_are_told_ = true;
}

void ExchangePass::meet_and_sum(void* out) {
  const ExpertsConfig& e = config_.experts;
  group_.meet(main_);
  if (rows_are_told_)
    group_.check_room(windows_.transient->received<int>(back_.rows_needed), config_.max_rows, main_);
  sum_returned({sent_.place, windows_.transient->received<char>(back_.rows), e.dtype, e.dim}, e.tokens,
               config_.max_tokens, config_.ranks, out, main_);
}

void ExchangePass::gather_weights(const DispatchInput& input, float* out) {
  const ExpertsConfig& e = config_.experts;
  gather_weight_gradients(sent_.place, windows_.transient->received<float>(back_.d_weights), input.ids,
                          input.token_mask, e.tokens, config_.max_tokens, e.slots, config_.ranks,
                          shape_.own_experts, out, main_);
}

}  // namespace moeref::cuda
