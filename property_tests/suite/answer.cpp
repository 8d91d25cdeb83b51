#include "property_tests/suite/answer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moeref/component.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"

namespace moeref {
namespace {

std::int64_t row_size(const Tensor& tensor) {
  return tensor.shape().empty() || tensor.extent(0) == 0 ? tensor.size() : tensor.size() / tensor.extent(0);
}

}  // namespace

void fail(Finding finding) { throw Failed(std::move(finding)); }

Call forward_alone(Call call) {
  call.backward = false;
  std::erase_if(call.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
  return call;
}

Call as_offered(const Implementation& implementation, Call call) {
  if (!call.backward || !implementation.unsupported(call)) return call;
  Call outputs = forward_alone(call);
  return implementation.unsupported(outputs) ? call : outputs;
}

Call full_call(const Implementation& implementation, const Descriptor& descriptor) {
  return as_offered(implementation, make_call(descriptor, facts(descriptor.component).has_backward));
}

Answer::Answer(Implementation& implementation, Call call) : call_(std::move(call)) {
  if (const auto reason = implementation.unsupported(call_)) throw NotSupported(*reason);
  try {
    results_ = implementation.run(call_);
  } catch (const InputError& error) {
    fail({"", -1, 0.0, 0.0, 0.0, std::string("refused a valid call: ") + error.what()});
  }
}

const Tensor& Answer::operator[](std::string_view tensor) const {
  const auto found = results_.find(tensor);
  if (found == results_.end()) fail({std::string(tensor), -1, 0.0, 0.0, 0.0, "missing"});
  return found->second;
}

const Evaluation& Answer::reference() const {
  if (evaluation_) return *evaluation_;
  NamedTensors routing;
  for (const auto& [name, tensor] : results_)
    if (name.starts_with("outputs/indices") && tensor.dtype() == DType::int64) {
      const auto ids = tensor.as<std::int64_t>();
      const bool usable =
          std::ranges::all_of(ids, [&](std::int64_t id) { return id >= 0 && id < experts(); });
      if (usable) routing[name] = tensor;
    }
  // Which of these the experts get, where their capacity is limited.
  const auto indices = results_.find("outputs/indices"),
             dispatched = results_.find("outputs/dispatched_indices");
  if (indices != results_.end() && dispatched != results_.end() &&
      dispatched->second.shape() == indices->second.shape() && dispatched->second.dtype() == DType::int64)
    routing[dispatched->first] = dispatched->second;
  evaluation_ = std::make_shared<Evaluation>(evaluate(call_, routing));
  return *evaluation_;
}

double Answer::bound(std::string_view tensor, std::int64_t index) const {
  const auto found = reference().results.find(std::string(tensor));
  if (found == reference().results.end()) return 0.0;
  return static_cast<double>(found->second.bound.at(static_cast<std::size_t>(index)));
}

bool Answer::decided(std::int64_t token) const {
  const std::vector<RoutingScores>& routing = reference().routing;
  return std::ranges::all_of(routing, [&](const RoutingScores& r) {
    std::vector<std::int64_t> any(static_cast<std::size_t>(r.k));
    std::iota(any.begin(), any.end(), 0);
    return judge_selection(r, token, any).certified;
  });
}

bool Answer::all_decided() const {
  const std::vector<RoutingScores>& routing = reference().routing;
  for (std::int64_t t = 0; !routing.empty() && t < routing.front().tokens; ++t)
    if (!decided(t)) return false;
  return true;
}

std::int64_t Answer::tokens() const { return (*this)["outputs/indices"].extent(0); }
std::int64_t Answer::slots() const { return (*this)["outputs/indices"].extent(1); }
std::int64_t Answer::experts() const { return call_.config.at("n_routed_experts").get<std::int64_t>(); }

std::vector<Slot> slots_of(const Answer& answer, std::int64_t token) {
  const Tensor& ids = answer["outputs/indices"];
  const Tensor& weights = answer["outputs/weights"];
  const std::int64_t k = ids.extent(1);
  std::vector<Slot> out;
  for (std::int64_t i = token * k; i < (token + 1) * k; ++i) {
    const auto expert = static_cast<std::int64_t>(ids[i]);
    if (expert < 0 || expert >= answer.experts())
      fail({"outputs/indices", i, ids[i], 0.0, 0.0, "an expert id outside [0, n_routed_experts)"});
    if (std::ranges::any_of(out, [&](const Slot& s) { return s.expert == expert; }))
      fail({"outputs/indices", i, ids[i], 0.0, 0.0, "an expert id that comes twice for one token"});
    out.push_back({expert, i, weights[i], answer.bound("outputs/weights", i)});
  }
  std::ranges::sort(out, {}, &Slot::expert);
  return out;
}

void expect_equal(std::string_view tensor, std::int64_t index, double value, double expected,
                  std::string_view text) {
  expect_near(tensor, index, value, expected, 0.0, text);
}

void expect_near(std::string_view tensor, std::int64_t index, double value, double expected, double bound,
                 std::string_view text) {
  // The expectation is an implementation's too: where its bound is not finite it may hold an infinity itself,
  // or a NaN that came of it. Otherwise NaN is near NaN alone.
  if (!std::isfinite(bound)) return;
  const bool one_is_nan = std::isnan(value) != std::isnan(expected);
  if (one_is_nan || value_ratio(value, expected, bound) > 1.0)
    fail({std::string(tensor), index, value, expected, bound, std::string(text)});
}

void expect_same(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text,
                 double factor) {
  const Tensor &left = a[tensor], &right = b[tensor];
  if (left.shape() != right.shape())
    fail({std::string(tensor), -1, 0.0, 0.0, 0.0,
          std::string(text) + ": shapes " + to_string(left.shape()) + " and " + to_string(right.shape())});
  for (std::int64_t i = 0; i < left.size(); ++i)
    if (left[i] != factor * right[i])
      expect_near(tensor, i, left[i], factor * right[i],
                  a.bound(tensor, i) + std::abs(factor) * b.bound(tensor, i), text);
}

void expect_same_row(const Answer& a, std::int64_t ra, const Answer& b, std::int64_t rb,
                     std::string_view tensor, std::string_view text) {
  const Tensor &left = a[tensor], &right = b[tensor];
  const std::int64_t width = row_size(left);
  if (row_size(right) != width)
    fail({std::string(tensor), -1, 0.0, 0.0, 0.0,
          std::string(text) + ": shapes " + to_string(left.shape()) + " and " + to_string(right.shape())});
  for (std::int64_t c = 0; c < width; ++c) {
    const std::int64_t i = ra * width + c, j = rb * width + c;
    if (left[i] != right[j])
      expect_near(tensor, i, left[i], right[j], a.bound(tensor, i) + b.bound(tensor, j), text);
  }
}

void expect_identical(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text) {
  const Tensor &left = a[tensor], &right = b[tensor];
  if (left == right) return;
  if (left.shape() == right.shape())
    for (std::int64_t i = 0; i < left.size(); ++i) expect_equal(tensor, i, left[i], right[i], text);
  if (left.shape() != right.shape() || left.dtype() != right.dtype())
    fail({std::string(tensor), -1, 0.0, 0.0, 0.0, std::string(text) + ": another shape or dtype"});
}

bool expect_same_routing(const Answer& a, std::int64_t ta, const Answer& b, std::int64_t tb,
                         std::string_view text, std::span<const std::int64_t> relabel, double factor) {
  if (!a.decided(ta) || !b.decided(tb)) return false;
  const std::vector<Slot> left = slots_of(a, ta);
  std::vector<Slot> right = slots_of(b, tb);
  if (!relabel.empty()) {
    for (Slot& s : right) s.expert = relabel[static_cast<std::size_t>(s.expert)];
    std::ranges::sort(right, {}, &Slot::expert);
  }
  for (std::size_t j = 0; j < left.size() && j < right.size(); ++j) {
    expect_equal("outputs/indices", left[j].index, static_cast<double>(left[j].expert),
                 static_cast<double>(right[j].expert), text);
    if (left[j].weight != factor * right[j].weight)
      expect_near("outputs/weights", left[j].index, left[j].weight, factor * right[j].weight,
                  left[j].bound + std::abs(factor) * right[j].bound, text);
  }
  if (left.size() != right.size())
    fail({"outputs/indices", -1, static_cast<double>(left.size()), static_cast<double>(right.size()), 0.0,
          std::string(text) + ": number of slots"});
  return true;
}

void require_some(std::int64_t compared, std::int64_t of, std::string_view why) {
  if (of > 0 && compared == 0) throw Discarded(std::string(why));
}

std::vector<std::int64_t> permutation(std::uint64_t seed, std::int64_t n) {
  const CounterGenerator random(seed, "permutation");
  std::vector<std::int64_t> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  for (std::size_t i = out.size(); i > 1; --i) std::swap(out[i - 1], out[random.integer(i, i)]);
  return out;
}

Tensor take(const Tensor& tensor, std::size_t axis, std::span<const std::int64_t> order) {
  Shape shape = tensor.shape();
  const std::int64_t extent = shape.at(axis);
  shape[axis] = static_cast<std::int64_t>(order.size());
  std::int64_t inner = 1, outer = 1;
  for (std::size_t a = 0; a < shape.size(); ++a) {
    if (a < axis) outer *= shape[a];
    if (a > axis) inner *= shape[a];
  }
  Tensor out(tensor.dtype(), shape);
  const auto bytes = static_cast<std::size_t>(inner * size_of(tensor.dtype()));
  for (std::int64_t o = 0; o < outer; ++o)
    for (std::size_t i = 0; i < order.size(); ++i)
      std::ranges::copy(
          tensor.bytes().subspan(static_cast<std::size_t>(o * extent + order[i]) * bytes, bytes),
          out.bytes().subspan((static_cast<std::size_t>(o) * order.size() + i) * bytes).begin());
  return out;
}

void take_in(Call& call, std::string_view tensor, std::size_t axis, std::span<const std::int64_t> order) {
  const auto found = call.tensors.find(tensor);
  if (found != call.tensors.end()) found->second = take(found->second, axis, order);
}

Tensor scaled(const Tensor& tensor, double factor) {
  Tensor out = tensor;
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, factor * tensor[i]);
  return out;
}

Tensor filled(DType dtype, Shape shape, double value) {
  Tensor out(dtype, std::move(shape));
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, value);
  return out;
}

}  // namespace moeref
