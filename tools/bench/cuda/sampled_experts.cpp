#include "tools/bench/cuda/sampled_experts.hpp"

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/reference.hpp"

namespace moeref::cuda::bench {
namespace {

/// Rows of a matrix [.., width] on the device, one after another.
Tensor rows(const void* matrix, DType type, const std::vector<std::int64_t>& which, moeref::Shape extents) {
  Tensor out(type, std::move(extents));
  const std::size_t bytes = out.bytes().size() / which.size();
  for (std::size_t i = 0; i < which.size(); ++i)
    check(cudaMemcpy(out.bytes().data() + i * bytes,
                     static_cast<const char*>(matrix) + static_cast<std::size_t>(which[i]) * bytes, bytes,
                     cudaMemcpyDeviceToHost),
          "cudaMemcpy");
  return out;
}

/// Swiglu without biases, as every shape is timed.
MoEConfig config_of(const Shape& shape, std::int64_t experts) {
  MoEConfig config;
  config.dim = shape.dim, config.inter_dim = config.moe_inter_dim = shape.inter_dim;
  config.n_routed_experts = experts, config.n_activated_experts = shape.slots;
  return config;
}

class Sample {
 public:
  Sample(const TimedExperts& timed, std::vector<std::int64_t> tokens)
      : timed_(timed), tokens_(std::move(tokens)) {
    const int k = timed.shape.slots;
    for (const std::int64_t t : tokens_)
      for (int j = 0; j < k; ++j) experts_.push_back(timed.ids[static_cast<std::size_t>(t * k + j)]);
    std::sort(experts_.begin(), experts_.end());
    experts_.erase(std::unique(experts_.begin(), experts_.end()), experts_.end());
  }

  Call call(bool backward) const {
    const Shape& s = timed_.shape;
    const DType host = host_dtype(timed_.dtype);
    const auto count = static_cast<std::int64_t>(tokens_.size()),
               experts = static_cast<std::int64_t>(experts_.size());
    Call out;
    out.component = Component::experts;
    out.config = full_json(config_of(s, experts));
    out.options = nlohmann::json::object();
    out.config["dtype"] = std::string(name(host));
    out.backward = backward;
    NamedTensors& t = out.tensors;
    t["inputs/x"] = row_of(timed_.x, host, s.dim);
    t["inputs/weights"] = row_of(timed_.weights, DType::float32, s.slots);
    Tensor places(DType::int64, {count, s.slots});
    for (std::int64_t i = 0; i < count; ++i)
      for (int j = 0; j < s.slots; ++j) {
        const int id =
            timed_.ids[static_cast<std::size_t>(tokens_[static_cast<std::size_t>(i)] * s.slots + j)];
        places.as<std::int64_t>()[static_cast<std::size_t>(i * s.slots + j)] =
            std::lower_bound(experts_.begin(), experts_.end(), id) - experts_.begin();
      }
    t["inputs/indices"] = std::move(places);
    t["params/gate_and_up_projs"] =
        rows(timed_.gate_and_up, host, experts_, {experts, s.dim, 2 * s.inter_dim});
    t["params/down_projs"] = rows(timed_.down, host, experts_, {experts, s.inter_dim, s.dim});
    if (backward) t["cotangents/y"] = row_of(timed_.d_output, host, s.dim);
    return out;
  }

  Tensor row_of(const void* matrix, DType type, std::int64_t width) const {
    return rows(matrix, type, tokens_, {static_cast<std::int64_t>(tokens_.size()), width});
  }

 private:
  const TimedExperts& timed_;
  std::vector<std::int64_t> tokens_, experts_;
};

double ratio(const Evaluation& evaluation, const char* tensor, const Tensor& got) {
  const BoundedTensor& want = evaluation.results.at(tensor);
  double worst = 0.0;
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    const double error = std::abs(got[i] - want.value[at]), bound = want.bound[at];
    const double r = error == 0.0 ? 0.0 : error / bound;
    if (!(r <= 1.0))
      throw CudaError(fmt::format("--verify: {}[{}] of the sampled tokens is {:g}: want {:g} +- {:g}", tensor,
                                  i, got[i], want.value[at], bound));
    worst = std::max(worst, r);
  }
  return worst;
}

}  // namespace

double largest_ratio(const TimedExperts& timed) {
  const std::int64_t last = timed.shape.tokens - 1;
  const DType type = host_dtype(timed.dtype);
  const Sample forward(timed, {0, last / 3, last});
  const double of_output =
      ratio(evaluate(forward.call(false)), "outputs/y", forward.row_of(timed.output, type, timed.shape.dim));
  const Sample both(timed, {last / 2});  // one: the reference's gradients of the weights take memory
  const Evaluation gradients = evaluate(both.call(true));
  return std::max(
      {of_output, ratio(gradients, "grads/x", both.row_of(timed.d_x, type, timed.shape.dim)),
       ratio(gradients, "grads/weights", both.row_of(timed.d_weights, DType::float32, timed.shape.slots))});
}

}  // namespace moeref::cuda::bench
