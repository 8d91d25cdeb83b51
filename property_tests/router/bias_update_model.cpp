// The correction bias as a state machine (rc::state): any sequence of forwards, updates, changes of mode,
// idle batches and restarts must leave the bias that a model of a few lines predicts. Expert ids are given,
// so that the model knows every load.
#include <rapidcheck/state.h>

#include <algorithm>
#include <optional>
#include <string>

#include "golden/catalogue/data_choice.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "property_tests/suite/rapidcheck_listener.hpp"

namespace moeref {
namespace {

/// One forward's tokens.
struct Batch {
  Tensor x, mask, ids;
};

Batch draw_batch(const Descriptor& d, std::uint64_t seed, bool idle) {
  Descriptor one = d;
  one.seed = seed;
  one.component = Component::gate;
  if (idle)
    one.mask = Mask::all;
  else if (one.mask == Mask::absent)
    one.mask = Mask::none;
  const Call call = make_call(one);
  return {call.tensors.at("inputs/x"), call.tensors.at("inputs/token_mask"),
          call.tensors.at("inputs/replay_indices")};
}

std::vector<double> load_of(const Descriptor& d, const Batch& batch) {
  std::vector<double> load(static_cast<std::size_t>(d.E));
  for (std::int64_t i = 0; i < batch.ids.size(); ++i)
    load[static_cast<std::size_t>(batch.ids[i])] += batch.mask[i / d.k];
  return load;
}

/// What must be true. The descriptor goes along, since commands draw their batches from it.
struct Model {
  Descriptor d;
  bool training = true;
  std::vector<double> bias;
  std::vector<double> load;  ///< since the last update
  int forwards = 0;          ///< in training, since the last update
  int rounds = 0;

  void forward(const Batch& batch) {
    if (!training) return;
    const std::vector<double> more = load_of(d, batch);
    for (std::size_t e = 0; e < load.size(); ++e) load[e] += more[e];
    ++forwards;
  }
  void update() {
    double total = 0.0;
    for (const double l : load) total += l;
    for (std::size_t e = 0; e < bias.size(); ++e) {
      const double gap = total - load[e] * static_cast<double>(bias.size());
      bias[e] += d.factor * static_cast<double>((gap > 0.0) - (gap < 0.0));
    }
    std::ranges::fill(load, 0.0);
    forwards = 0;
    ++rounds;
  }
};

/// The implementation as a training loop would hold it: the bias, and the batches of the rounds so far.
class TrainingLoop {
 public:
  TrainingLoop(Implementation& impl, const Descriptor& d) : impl_(impl), d_(d), call_(make_call(d)) {
    bias_ = call_.tensors.at("params/e_score_correction_bias");
    first_bias_ = bias_;
  }

  const Tensor& bias() const { return bias_; }
  void set_training(bool training) { training_ = training; }

  /// A forward of the gate; its load must be that of the ids.
  void forward(const Batch& batch) {
    Descriptor one = d_;
    one.component = Component::gate;
    one.eval = !training_;
    Call call = make_call(one);
    call.tensors["inputs/x"] = batch.x;
    call.tensors["inputs/token_mask"] = batch.mask;
    call.tensors["inputs/replay_indices"] = batch.ids;
    call.tensors["params/e_score_correction_bias"] = bias_;
    const Answer answer(impl_, call);
    const std::vector<double> want = load_of(d_, batch);
    for (std::int64_t e = 0; e < d_.E; ++e)
      expect_equal("outputs/expert_load", e, answer.at("outputs/expert_load", e),
                   want[static_cast<std::size_t>(e)], "load of the forward");
    if (training_) pending_.push_back(batch);
  }

  void update(const std::vector<double>& load) {
    const Answer answer(impl_, rounds_call({pending_}, bias_));
    for (std::int64_t e = 0; e < d_.E; ++e)
      expect_equal("outputs/cumulative_expert_load_0", e, answer.at("outputs/cumulative_expert_load_0", e),
                   load[static_cast<std::size_t>(e)], "load since the last update");
    bias_ = answer["outputs/e_score_correction_bias_0"].cast(DType::float32);
    history_.push_back(std::move(pending_));
    pending_.clear();
  }

  /// All rounds in one call from the first bias on: what a run without interruption would hold.
  Tensor uninterrupted() const {
    const Answer answer(impl_, rounds_call(history_, first_bias_));
    return answer["outputs/e_score_correction_bias_" + std::to_string(history_.size() - 1)];
  }

 private:
  /// Rounds of fewer forwards than others are filled up with masked batches, which count nothing.
  Call rounds_call(const std::vector<std::vector<Batch>>& rounds, const Tensor& bias) const {
    Call call = call_;
    std::erase_if(call.tensors, [](const auto& entry) { return entry.first.starts_with("inputs/"); });
    std::size_t most = 0;
    for (const auto& round : rounds) most = std::max(most, round.size());
    call.options["steps"] = rounds.size();
    call.options["micro_batches"] = most;
    call.tensors["params/e_score_correction_bias"] = bias;
    for (std::size_t s = 0; s < rounds.size(); ++s)
      for (std::size_t m = 0; m < most; ++m) {
        const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
        const Batch& batch = rounds[s][std::min(m, rounds[s].size() - 1)];
        call.tensors["inputs/x" + at] = batch.x;
        call.tensors["inputs/token_mask" + at] =
            m < rounds[s].size() ? batch.mask : filled(DType::boolean, batch.mask.shape(), 0.0);
        call.tensors["inputs/replay_indices" + at] = batch.ids;
      }
    return call;
  }

  Implementation& impl_;
  Descriptor d_;
  Call call_;
  Tensor bias_, first_bias_;
  bool training_ = true;
  std::vector<Batch> pending_;
  std::vector<std::vector<Batch>> history_;
};

using Command = rc::state::Command<Model, TrainingLoop>;

/// One forward.
struct RouteBatch : Command {
  std::uint64_t seed = *rc::gen::inRange<std::uint64_t>(0, 1000);
  void apply(Model& m) const override { m.forward(draw_batch(m.d, seed, false)); }
  void run(const Model& m, TrainingLoop& loop) const override { loop.forward(draw_batch(m.d, seed, false)); }
  void show(std::ostream& os) const override { os << "RouteBatch(" << seed << ")"; }
};

/// Two forwards before the next update, as with gradient accumulation.
struct Accumulate : Command {
  std::uint64_t seed = *rc::gen::inRange<std::uint64_t>(0, 1000);
  void checkPreconditions(const Model& m) const override { RC_PRE(m.training); }
  void apply(Model& m) const override {
    m.forward(draw_batch(m.d, seed, false));
    m.forward(draw_batch(m.d, seed + 1, false));
  }
  void run(const Model& m, TrainingLoop& loop) const override {
    RC_ASSERT(m.training);
    loop.forward(draw_batch(m.d, seed, false));
    loop.forward(draw_batch(m.d, seed + 1, false));
  }
  void show(std::ostream& os) const override { os << "Accumulate(" << seed << ")"; }
};

/// A forward in which every token is masked.
struct ZeroTokenRank : Command {
  void checkPreconditions(const Model& m) const override { RC_PRE(m.training); }
  void apply(Model& m) const override { m.forward(draw_batch(m.d, 0, true)); }
  void run(const Model& m, TrainingLoop& loop) const override {
    RC_ASSERT(m.training);
    loop.forward(draw_batch(m.d, 0, true));
  }
  void show(std::ostream& os) const override { os << "ZeroTokenRank"; }
};

struct SetTraining : Command {
  bool training = *rc::gen::arbitrary<bool>();
  void apply(Model& m) const override { m.training = training; }
  void run(const Model&, TrainingLoop& loop) const override { loop.set_training(training); }
  void show(std::ostream& os) const override { os << "SetTraining(" << training << ")"; }
};

struct UpdateBias : Command {
  void checkPreconditions(const Model& m) const override { RC_PRE(m.training && m.forwards > 0); }
  void apply(Model& m) const override { m.update(); }
  void run(const Model& m, TrainingLoop& loop) const override {
    RC_ASSERT(m.training);
    RC_ASSERT(m.forwards > 0);
    loop.update(m.load);
    const Model after = nextState(m);
    for (std::size_t e = 0; e < after.bias.size(); ++e)
      expect_equal("outputs/e_score_correction_bias_0", static_cast<std::int64_t>(e),
                   loop.bias()[static_cast<std::int64_t>(e)], after.bias[e], "bias after the update");
  }
  void show(std::ostream& os) const override { os << "UpdateBias"; }
};

/// The run starts again from the saved bias; one without interruption must hold the same.
struct SaveLoad : Command {
  void checkPreconditions(const Model& m) const override { RC_PRE(m.rounds > 0 && m.forwards == 0); }
  void run(const Model& m, TrainingLoop& loop) const override {
    RC_ASSERT(m.rounds > 0);
    const Tensor whole = loop.uninterrupted();
    for (std::int64_t e = 0; e < whole.size(); ++e)
      expect_equal("outputs/e_score_correction_bias", e, whole[e], loop.bias()[e],
                   "all rounds in one call, against one call a round");
  }
  void show(std::ostream& os) const override { os << "SaveLoad"; }
};

void require_support(Implementation& impl, const Descriptor& d) {
  Descriptor gate = d;
  gate.component = Component::gate;
  for (const Descriptor& one : {d, gate})
    if (const auto reason = impl.unsupported(make_call(one))) throw NotSupported(*reason);
}

void state_machine(Implementation& impl, const Descriptor& d) {
  require_support(impl, d);
  rc::detail::TestParams params;
  params.seed = d.seed;
  params.maxSuccess = 4;
  params.maxSize = 16;  // commands of the longest sequence, about
  // RapidCheck takes every exception for a failure of the sequence.
  std::optional<std::string> declined;
  const auto sequences = [&] {
    try {
      TrainingLoop loop(impl, d);
      const Model start{d, true, loop.bias().doubles(), std::vector<double>(static_cast<std::size_t>(d.E)),
                        0, 0};
      rc::state::check(start, loop,
                       rc::state::gen::execOneOfWithArgs<RouteBatch, Accumulate, ZeroTokenRank, SetTraining,
                                                         UpdateBias, UpdateBias, SaveLoad>());
    } catch (const NotSupported& reason) {
      declined = reason.what();
    }
  };
  const std::string id = "bias_update_state_machine";
  const rc::detail::TestResult result = run_rapidcheck(id, sequences, params);
  rc::detail::FailureResult failure;
  if (!result.match(failure)) {
    if (declined) throw NotSupported(*declined);
    return;
  }
  std::string commands;
  for (const auto& [type, text] : failure.counterExample) commands += (commands.empty() ? "" : "; ") + text;
  std::ranges::replace(commands, '\n', ' ');
  std::string description = failure.description;
  std::ranges::replace(description, '\n', ' ');
  fail({"", -1, 0.0, 0.0, 0.0, description + " after " + commands});
}

void arrange(Descriptor& d) {
  d.replay = true;
  if (d.ids == Ids::duplicates || d.ids == Ids::absent_slots) d.ids = Ids::distinct;
  d.groups = d.limited = 1;
  d.T = std::clamp<std::int64_t>(d.T, 1, 6);
  d.ranks = d.steps = d.micro = 1;
  d.E = std::min<std::int64_t>(d.E, 6);
  d.k = std::min(d.k, d.E);
  d.D = std::min<std::int64_t>(d.D, 6);
}

const Property kBiasUpdateModelProperties[] = {
    {"P32",
     "bias_update_state_machine",
     {Component::bias_update},
     PropertyClass::exact,
     "any sequence of forwards, updates, modes, idle batches and restarts leaves the bias that the rule says",
     {"A14", "A11", "O22", "stale counter", "mode", "lost buffer"},
     arrange,
     state_machine},
};

}  // namespace

std::span<const Property> bias_update_model_properties() { return kBiasUpdateModelProperties; }

}  // namespace moeref
