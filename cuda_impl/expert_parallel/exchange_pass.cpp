#include "cuda_impl/expert_parallel/exchange_pass.hpp"

#include "cuda_impl/expert_parallel/packed_places.hpp"

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
      chunks_(sent_chunks(config)),
      row_bytes_(static_cast<std::size_t>(config.experts.dim) * bytes_of(config.experts.dtype)),
      numbers_bytes_(static_cast<std::size_t>(config.experts.slots) * 4),
      packed_(config.packed()) {}

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
  return {region, row_bytes,       range.first,     range.count,  outbox,
          used,   sent_.rows.laid, sent_.rows.home, chunks_.usual};
}

void ExchangePass::send_routes(const DispatchInput& input, const Sent& sent, const RouteWorkspace& work) {
  const Window& kept = *windows_.kept;
  sent_ = sent;
  const Dispatch out{sent.place, sent.rows, packed_ ? RankPointers{} : kept.slots(in_.counts),
                     kept.slots(in_.ids), kept.slots(in_.weights)};
  if (packed_) {
    agree_on_places(input, work);
    counts_ = group_.row_counts(sent.rows.sent, arrived(), main_);
    plan_packed_dispatch(shape_, input, out, kept.received<int>(in_.ids), config_.most_arrivals(),
                         work.dispatch, main_);
    const RowRange all = chunks_.range(0);
    const Delivery routes[] = {rows_of(in_.ids, numbers_bytes_, all, Outbox::direct, nullptr),
                               rows_of(in_.weights, numbers_bytes_, all, Outbox::direct, nullptr)};
    group_.send(kept, routes, counts_ ? &*counts_ : nullptr, main_);
    if (routes_come_first()) group_.meet(main_);
    return;
  }
  plan_dispatch(shape_, input, out, work.dispatch, main_);
  const Delivery routes[] = {{in_.counts}, {in_.ids}, {in_.weights}};
  group_.send(kept, routes, nullptr, main_);
  if (routes_come_first()) group_.meet(main_);
  counts_ = group_.row_counts(sent.rows.sent, arrived(), main_);
}

void ExchangePass::agree_on_places(const DispatchInput& input, const RouteWorkspace& work) {
  const Window& kept = *windows_.kept;
  count_dispatch(shape_, input, kept.slots(in_.counts), work.dispatch, main_);
  const Delivery told[] = {{in_.counts}};
  group_.deliver(kept, told, nullptr, main_);
  unsigned long long reached = 0;
  for (int p = 0; p < config_.ranks; ++p)
    if (p == group_.rank() || group_.stores_to(p)) reached |= 1ull << p;
  place_packed_rows(kept.received<int>(in_.counts), config_.ranks, group_.rank(), reached,
                    {cuda::rows_of(config_.own()), config_.most_arrivals(), config_.most_returns()},
                    {sent_.rows, work.rows_needed, work.token_rows_needed}, main_);
  if (config_.max_token_rows > 0)
    group_.check_room(work.token_rows_needed, RoomFor::token_rows, config_.max_token_rows, main_);
  if (config_.max_rows > 0)
    group_.check_room(work.rows_needed, RoomFor::expert_rows, config_.max_rows, main_);
}

void ExchangePass::recall_routes(const Sent& sent) {
  sent_ = sent;
  counts_ = group_.row_counts(sent.rows.sent, arrived(), main_);
}

void ExchangePass::push(const void* rows, const Window& window, Region region) {
  pushed_ = {rows, &window, region};
  group_.wait(side_, group_.mark(main_));
  push_chunk(0);
  if (!routes_come_first()) group_.wait(main_, arrival_);
}

void ExchangePass::push_chunk(int chunk) {
  // Later ones travel beside the kernels of others, which need the multiprocessors; what nothing waits beside
  // goes fastest by direct stores.
  const Outbox outbox = chunk == 0 ? Outbox::direct : Outbox::staged;
  const RowRange range = chunks_.range(chunk);
  push_rows(shape_, config_.experts.dtype, config_.experts.dim, pushed_.rows, sent_.place, sent_.rows.out,
            pushed_.window->slots(pushed_.region, outbox), range, side_);
  const Delivery what[] = {rows_of(pushed_.region, row_bytes_, range, outbox, sent_.rows.sent)};
  group_.deliver(*pushed_.window, what, counts_ ? &*counts_ : nullptr, side_);
  arrival_ = group_.mark(side_);
}

void ExchangePass::return_range(const ExpertRows& rows, RowRange range, Outbox outbox, const float* d_weights,
                                cudaStream_t sender) {
  const ExpertsConfig& e = config_.experts;
  const Window& transient = *windows_.transient;
  const RowPlaces& at = sent_.rows;
  combine_to_ranks({arrived(), at.in, rows.slot_row, rows.rows, e.dtype, e.dim}, e.slots,
                   {config_.ranks, group_.rank()}, range,
                   {transient.slots(back_.rows, outbox), outbox == Outbox::staged ? at.laid : at.home},
                   d_weights, transient.slots(back_.d_weights, outbox), main_);
  if (sender != main_) group_.wait(sender, group_.mark(main_));
  std::optional<RowCounts> returned = counts_;
  if (returned) std::swap(returned->to, returned->from);
  std::vector<Delivery> what{rows_of(back_.rows, row_bytes_, range, outbox, arrived())};
  if (d_weights) what.push_back(rows_of(back_.d_weights, numbers_bytes_, range, outbox, arrived()));
  group_.send(transient, what, returned ? &*returned : nullptr, sender);
}

void ExchangePass::return_rows(const ExpertRows& rows, void* out, const InputSlots& input) {
  return_range(rows, {0, config_.max_tokens}, Outbox::direct, nullptr, main_);
  meet_and_sum(out, input);
}

void ExchangePass::send_back(const ExpertRows& rows, int chunk) {
  const Outbox outbox = chunk + 1 < chunks_.count ? Outbox::staged : Outbox::direct;
  return_range(rows, chunks_.range(chunk), outbox, nullptr, side_);
}

void ExchangePass::send_back(const ExpertRows& rows, const float* d_weights) {
  return_range(rows, {0, config_.max_tokens}, Outbox::staged, d_weights, side_);
}

void ExchangePass::sum_all(void* out, const InputSlots& input) {
  group_.wait(main_, group_.mark(side_));
  meet_and_sum(out, input);
}

void ExchangePass::tell_rows_needed(const int* rows_needed) {
  if (config_.max_rows == 0 || packed_) return;
  const Window& transient = *windows_.transient;
  to_all_ranks(rows_needed, config_.ranks, transient.slots(back_.rows_needed), main_);
  const Delivery what[] = {{back_.rows_needed}};
  group_.send(transient, what, nullptr, main_);
  rows_are_told_ = true;
}

void ExchangePass::meet_and_sum(void* out, const InputSlots& input) {
  const ExpertsConfig& e = config_.experts;
  group_.meet(main_);
  if (rows_are_told_)
    group_.check_room(windows_.transient->received<int>(back_.rows_needed), RoomFor::expert_rows,
                      config_.max_rows, main_);
  sum_returned({sent_.place, sent_.rows.back, windows_.transient->received<char>(back_.rows), e.dtype, e.dim},
               e.tokens, config_.ranks, out, main_, input);
}

void ExchangePass::gather_weights(const DispatchInput& input, float* out) {
  const ExpertsConfig& e = config_.experts;
  gather_weight_gradients(sent_.place, sent_.rows.back, windows_.transient->received<float>(back_.d_weights),
                          input.ids, input.token_mask, e.tokens, e.slots, config_.ranks, shape_.own_experts,
                          out, main_);
}

}  // namespace moeref::cuda
