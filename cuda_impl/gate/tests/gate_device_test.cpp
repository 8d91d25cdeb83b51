// The gate's own interface: graph replay, NaN, ids outside the range, gradients added to others, optional
// outputs.
#include <algorithm>
#include <cstring>

#include "cuda_impl/adaptors/tests/judged.hpp"
#include "cuda_impl/gate/tests/device_gate.hpp"

namespace moeref::cuda::test {
namespace {

GateConfig gate_config(std::int64_t tokens, ScoreFunction score = ScoreFunction::softmax) {
  GateConfig c{tokens, 64, 40, 4};
  c.score_function = score;
  c.norm_topk_prob = true;
  c.aux_loss_coeff = 0.25;
  return c;
}

template <class T>
void expect_same_bits(const char* what, const std::vector<T>& got, const std::vector<T>& want) {
  ASSERT_EQ(got.size(), want.size()) << what;
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)), 0) << what;
}

void expect_same_results(const DeviceGate& got, const DeviceGate& want) {
  expect_same_bits("ids", got.ids.get(), want.ids.get());
  expect_same_bits("weights", got.weights.get(), want.weights.get());
  expect_same_bits("weights_float", got.weights_float.get(), want.weights_float.get());
  expect_same_bits("load", got.load.get(), want.load.get());
  expect_same_bits("aux_loss", got.aux_loss.get(), want.aux_loss.get());
  expect_same_bits("dx", got.dx.get(), want.dx.get());
  expect_same_bits("dweight", got.dweight.get(), want.dweight.get());
  expect_same_bits("dbias", got.dbias.get(), want.dbias.get());
}

TEST(GateDevice, AGraphReplaysWithOtherInputs) {
  MOEREF_NEEDS_DEVICE();
  DeviceGate captured(gate_config(300), 1), direct(gate_config(300), 100);
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  captured.forward(stream);
  captured.backward(false, stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "first replay");

  captured.x.set(direct.x.get()), captured.weight.set(direct.weight.get()),
      captured.bias.set(direct.bias.get());
  captured.d_weights.set(direct.d_weights.get());
  captured.poison(0x7f);
  check(cudaDeviceSynchronize(), "inputs");
  check(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(stream), "second replay");
  direct.forward(), direct.backward();
  expect_same_results(captured, direct);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

// What the workspaces held before does not matter.
TEST(GateDevice, PoisonIsNotRead) {
  MOEREF_NEEDS_DEVICE();
  DeviceGate first(gate_config(129)), second(gate_config(129));
  first.poison(0xff), second.poison(0x3c);
  first.forward(), first.backward();
  second.forward(), second.backward();
  expect_same_results(first, second);
}

TEST(GateDevice, ANanTokenTouchesOnlyItself) {
  MOEREF_NEEDS_DEVICE();
  for (const ScoreFunction score : {ScoreFunction::softmax, ScoreFunction::sigmoid,
                                    ScoreFunction::sqrtsoftplus, ScoreFunction::softmax_with_bias}) {
    DeviceGate clean(gate_config(100, score)), dirty(gate_config(100, score));
    auto x = dirty.x.get();
    x[7 * 64 + 3] = __float2bfloat16(NAN);
    dirty.x.set(x);
    clean.forward(), clean.backward();
    dirty.forward(), dirty.backward();
    const auto ids = dirty.ids.get(), clean_ids = clean.ids.get();
    const auto weights = dirty.weights_float.get(), clean_weights = clean.weights_float.get();
    for (int t = 0; t < 100; ++t) {
      std::vector<int> own(ids.begin() + t * 4, ids.begin() + t * 4 + 4);
      std::sort(own.begin(), own.end());
      EXPECT_TRUE(std::adjacent_find(own.begin(), own.end()) == own.end()) << "an id twice in token " << t;
      EXPECT_TRUE(own.front() >= 0 && own.back() < 40) << "token " << t;
      for (int j = 0; j < 4 && t != 7; ++j) {
        EXPECT_EQ(ids[t * 4 + j], clean_ids[t * 4 + j]) << "token " << t;
        EXPECT_EQ(weights[t * 4 + j], clean_weights[t * 4 + j]) << "token " << t;
      }
    }
    EXPECT_TRUE(std::isnan(weights[7 * 4]));
    EXPECT_TRUE(std::isnan(dirty.aux_loss.get()[0]));
  }
}

TEST(GateDevice, ReplayedIdsOutsideTheExpertsDoNothing) {
  MOEREF_NEEDS_DEVICE();
  GateConfig c = gate_config(64);
  c.aux_loss_coeff = 0.0;
  DeviceGate gate(c);
  std::vector<int> replay(64 * 4);
  for (std::size_t i = 0; i < replay.size(); ++i)
    replay[i] = i % 8 < 4 ? -1 : i % 4 == 3 ? 40 : static_cast<int>(i % 4 + 5);
  DeviceArray<int> given(replay);
  gate.replay = given.data();
  gate.forward(), gate.backward();
  const auto weights = gate.weights_float.get();
  const auto dx = gate.dx.get();
  const auto load = gate.load.get();
  for (int e = 0; e < 40; ++e) EXPECT_EQ(load[e], e >= 5 && e < 8 ? 32 : 0) << e;
  for (int t = 0; t < 64; ++t) {
    float sum = 0;
    for (int j = 0; j < 4; ++j) sum += weights[t * 4 + j];
    if (t % 2 == 0) {
      EXPECT_EQ(sum, 0.0f) << t;
      for (int d = 0; d < 64; ++d) EXPECT_EQ(__bfloat162float(dx[t * 64 + d]), 0.0f) << t;
    } else {
      EXPECT_NEAR(sum, 1.0f, 0.02f) << t;
      EXPECT_EQ(weights[t * 4 + 3], 0.0f) << t;
    }
  }
}

TEST(GateDevice, GradientsAreAddedToOthers) {
  MOEREF_NEEDS_DEVICE();
  DeviceGate plain(gate_config(70)), added(gate_config(70));
  const auto before = normal_bfloat16(70 * 64, 0.001, 9);
  added.dx.set(before);
  plain.forward(), plain.backward();
  added.forward(), added.backward(true);
  const auto dx = plain.dx.get(), sum = added.dx.get();
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const float want = __bfloat162float(dx[i]) + __bfloat162float(before[i]);
    EXPECT_NEAR(__bfloat162float(sum[i]), want, 0.01f * (std::abs(__bfloat162float(dx[i])) + std::abs(want)))
        << i;
  }
}

TEST(GateDevice, OptionalOutputsAndSavedMayBeNull) {
  MOEREF_NEEDS_DEVICE();
  DeviceGate whole(gate_config(90)), ids_only(gate_config(90));
  whole.forward();
  gate_forward(ids_only.config, ids_only.parameters(), ids_only.input(), {ids_only.ids.data()}, nullptr,
               ids_only.forward_work.data(), nullptr);
  expect_same_bits("ids", ids_only.ids.get(), whole.ids.get());
  const auto weights = whole.weights.get();
  const auto floats = whole.weights_float.get();
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(__bfloat162float(weights[i]), floats[i]);
  // Without the gradients of the parameters.
  DeviceGate frozen(gate_config(90));
  whole.backward();
  frozen.forward();
  gate_backward(frozen.config, frozen.parameters(), frozen.input(), frozen.ids.data(),
                frozen.d_weights.data(), DataType::bfloat16, frozen.saved.data(), {frozen.dx.data()},
                frozen.backward_work.data(), nullptr);
  expect_same_bits("dx", frozen.dx.get(), whole.dx.get());
}

// Not aligned to 16 bytes: the products without tensor cores give the same choice.
TEST(GateDevice, UnalignedInputs) {
  MOEREF_NEEDS_DEVICE();
  DeviceGate aligned(gate_config(90)), shifted(gate_config(90));
  auto values = aligned.x.get();
  values.insert(values.begin(), __float2bfloat16(0.0f));
  DeviceArray<__nv_bfloat16> x(values);
  aligned.forward(), aligned.backward();
  GateOutput out{shifted.ids.data()};
  const GateInput in{x.data() + 1, shifted.mask.data()};
  gate_forward(shifted.config, shifted.parameters(), in, out, shifted.saved.data(),
               shifted.forward_work.data(), nullptr);
  const auto a = aligned.ids.get(), b = shifted.ids.get();
  int different = 0;
  for (int t = 0; t < 90; ++t) different += !std::is_permutation(&a[t * 4], &a[t * 4] + 4, &b[t * 4]);
  EXPECT_LE(different, 3);  // logits on a rounding boundary of bfloat16
}

}  // namespace
}  // namespace moeref::cuda::test
