// Where each number is from:
//  * How a model's config.json becomes a MoEConfig: the documented system,
//  nemo_automodel/components/models/<family>/model.py
//    at commit 36044ad3d139. Its n_expert_groups = n_limited_groups = 0 ("no groups") is 1 here.
//  * Widths and counts: the model's own config.json on Hugging Face, as cited at each entry. Where the
//  documented system has
//    no class of its own for a family (Mixtral, Qwen2-MoE, OLMoE), the mapping follows that family's router
//    in Hugging Face transformers.
//  * Reduced configs keep the whole routing (experts, slots, groups, score function, normalisation, biases),
//  shared experts and activations: kernels that serve one shape alone are met at that shape. Widths shrink,
//    to multiples of 16 bytes in every dtype, and limits of activations with them so that inputs of unit size
//    still reach the clamps.
#include "golden/catalogue/presets.hpp"

#include <algorithm>

#include "moeref/error.hpp"

namespace moeref {
namespace {

/// What all of them share; `experts` in all, `active` a token.
MoEConfig layer(std::int64_t dim, std::int64_t inter_dim, std::int64_t moe_inter_dim, std::int64_t experts,
                std::int64_t active, ScoreFunc score_func) {
  MoEConfig c;
  c.dim = dim;
  c.inter_dim = inter_dim;
  c.moe_inter_dim = moe_inter_dim;
  c.n_routed_experts = experts;
  c.n_activated_experts = active;
  c.score_func = score_func;
  return c;
}

/// The same layer at small widths.
MoEConfig reduce(MoEConfig c) {
  c.dim = 16;
  c.inter_dim = 32;
  c.moe_inter_dim = 8;
  if (c.shared_expert_inter_dim) c.shared_expert_inter_dim = 16;
  if (c.swiglu_limit > 0.0) c.swiglu_limit = 1.0;
  c.activation_limit = 1.5;
  if (c.moe_latent_size) c.moe_latent_size = 8;
  if (c.expert_activation == ActivationKind::situ) c.situ_beta = 1.0, c.situ_linear_beta = 1.5;
  return c;
}

/// softmax over all experts, then top-k.
MoEConfig softmax_first(MoEConfig c, bool renormalise, double aux_loss_coeff) {
  c.softmax_before_topk = true;
  c.norm_topk_prob = renormalise;
  c.aux_loss_coeff = aux_loss_coeff;
  return c;
}

/// Renormalised weights times a scale, balanced by a correction bias.
MoEConfig bias_balanced(MoEConfig c, std::int64_t shared_experts, double route_scale) {
  c.n_shared_experts = shared_experts;
  c.route_scale = route_scale;
  c.norm_topk_prob = true;
  c.gate_bias_update_factor = 1e-3;
  return c;
}

// config.json of mistralai/Mixtral-8x7B-v0.1: hidden 4096, intermediate 14336, 8 experts, 2 a token,
// router_aux_loss_coef 0.02. Its router renormalises the top 2 of a softmax over all.
MoEConfig mixtral_8x7b() {
  return softmax_first(layer(4096, 14336, 14336, 8, 2, ScoreFunc::softmax), true, 0.02);
}

// config.json of Qwen/Qwen2-57B-A14B (in TensorRT-LLM's test_modeling_qwen_moe.py): hidden 3584, intermediate
// 18944, moe_intermediate 2560, 64 experts, 8 a token, norm_topk_prob false, shared_expert_intermediate
// 20480, aux 0.001. One shared expert behind a sigmoid gate.
MoEConfig qwen2_moe() {
  MoEConfig c = softmax_first(layer(3584, 18944, 2560, 64, 8, ScoreFunc::softmax), false, 0.001);
  c.n_shared_experts = 1;
  c.shared_expert_inter_dim = 20480;
  c.shared_expert_gate = true;
  return c;
}

// config.json of Qwen/Qwen3-30B-A3B: hidden 2048, intermediate 6144, moe_intermediate 768, 128 experts, 8 a
// token, norm_topk_prob true, aux 0.001. qwen3_moe/model.py.
MoEConfig qwen3_30b() {
  return softmax_first(layer(2048, 6144, 768, 128, 8, ScoreFunc::softmax), true, 0.001);
}

// Defaults of transformers' DeepseekV3Config, which are DeepSeek-V3's: hidden 7168, intermediate 18432,
// moe_intermediate 2048, 256 experts in 8 groups of which 4, 8 a token, 1 shared, scale 2.5.
// deepseek_v3/model.py.
MoEConfig deepseek_v3() {
  MoEConfig c = bias_balanced(layer(7168, 18432, 2048, 256, 8, ScoreFunc::sigmoid), 1, 2.5);
  c.n_expert_groups = 8;
  c.n_limited_groups = 4;
  return c;
}

// DeepSeek-V4-Flash, the defaults of deepseek_v4/config.py: hidden 4096, moe_intermediate 2048 (every layer
// is MoE), 256 experts, 6 a token, 1 shared, scale 1.5, swiglu_limit 10. deepseek_v4/model.py.
MoEConfig deepseek_v4() {
  MoEConfig c = bias_balanced(layer(4096, 2048, 2048, 256, 6, ScoreFunc::sqrtsoftplus), 1, 1.5);
  c.swiglu_limit = 10.0;
  return c;
}

// config.json of moonshotai/Moonlight-16B-A3B: hidden 2048, intermediate 11264, moe_intermediate 1408, 64
// experts in one group, 6 a token, 2 shared, scale 2.446. A DeepseekV3ForCausalLM, so deepseek_v3/model.py.
MoEConfig moonlight() { return bias_balanced(layer(2048, 11264, 1408, 64, 6, ScoreFunc::sigmoid), 2, 2.446); }

// config.json of openai/gpt-oss-120b: hidden and intermediate 2880, 128 experts, 4 a token, swiglu_limit 7,
// router_aux_loss_coef 0.9. gpt_oss/model.py: softmax over the top 4 logits, biases everywhere, quick_geglu.
MoEConfig gpt_oss_120b() {
  MoEConfig c = layer(2880, 2880, 2880, 128, 4, ScoreFunc::softmax);
  c.aux_loss_coeff = 0.9;
  c.expert_bias = c.router_bias = true;
  c.expert_activation = ActivationKind::quick_geglu;
  return c;
}

// config.json of allenai/OLMoE-1B-7B-0924: hidden 2048, intermediate 1024 (of an expert; no dense layers), 64
// experts, 8 a token, norm_topk_prob false, aux 0.01.
MoEConfig olmoe() { return softmax_first(layer(2048, 1024, 1024, 64, 8, ScoreFunc::softmax), false, 0.01); }

// zai-org/GLM-4.5 (355B), as NVIDIA's Megatron-Bridge documents it and as config.json of its successor
// GLM-4.7 has it: hidden 5120, intermediate 12288, moe_intermediate 1536, 160 experts in one group, 8 a
// token, 1 shared, scale 2.5. glm4_moe/model.py.
MoEConfig glm_4_5() {
  MoEConfig c = bias_balanced(layer(5120, 12288, 1536, 160, 8, ScoreFunc::sigmoid), 1, 2.5);
  c.apply_router_weight_after_down = true;
  return c;
}

// config.json of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: hidden 2688, intermediate and moe_intermediate
// 1856, 128 experts in one group, 6 a token, shared expert 3712, scale 2.5, no latent. nemotron_v3/model.py:
// a bias is kept, not updated.
MoEConfig nemotron_3_nano() {
  MoEConfig c = bias_balanced(layer(2688, 1856, 1856, 128, 6, ScoreFunc::sigmoid), 1, 2.5);
  c.gate_bias_update_factor = 0.0;
  c.force_e_score_correction_bias = true;
  c.expert_activation = c.shared_expert_activation = ActivationKind::relu2;
  c.shared_expert_inter_dim = 3712;
  return c;
}

// Defaults of minimax_m3_vl/config.py, which mirror the checkpoint's: hidden 6144, intermediate 3072, 128
// experts, 4 a token, scale 2, alpha 1.702, limit 7. minimax_m3_vl/model.py keeps the shared expert outside
// of the MoE and sets gate_precision to fp32.
MoEConfig minimax_m3() {
  MoEConfig c = bias_balanced(layer(6144, 3072, 3072, 128, 4, ScoreFunc::sigmoid), 0, 2.0);
  c.force_e_score_correction_bias = true;
  c.expert_activation = ActivationKind::swigluoai;
  return c;
}

// google/gemma-4-26B-A4B, text_config: hidden 2816, intermediate 2112, moe_intermediate 704, 128 experts, 8 a
// token. gemma4_moe/model.py; its own router normalises its input (outside of this layer) and renormalises
// the top 8 of a softmax over all, which is softmax_before_topk with norm_topk_prob.
MoEConfig gemma_4() {
  MoEConfig c = softmax_first(layer(2816, 2112, 704, 128, 8, ScoreFunc::softmax), true, 0.0);
  c.expert_activation = ActivationKind::geglu;
  return c;
}

// Defaults of kimi_k3/config.py, which are the released checkpoint's of moonshotai/Kimi-K3: hidden 7168,
// intermediate 33792, moe_intermediate 3072, 896 experts in one group, 16 a token, 2 shared, scale 1, latent
// 3584 with a norm of eps 1e-5, situ with 4 and 25. kimi_k3/model.py: a bias is kept, not updated, and the
// gate computes and weighs in fp32.
MoEConfig kimi_k3() {
  MoEConfig c = bias_balanced(layer(7168, 33792, 3072, 896, 16, ScoreFunc::sigmoid_with_bias), 2, 1.0);
  c.gate_bias_update_factor = 0.0;
  c.force_e_score_correction_bias = true;
  c.router_weights_fp32 = c.apply_router_weight_after_down = true;
  c.moe_latent_size = 3584;
  c.latent_norm = LatentNorm::before_fc2;
  c.expert_activation = c.shared_expert_activation = ActivationKind::situ;
  return c;
}

std::vector<Preset> preset_table() {
  const nlohmann::json none = nlohmann::json::object();
  const nlohmann::json fp32_gate = {{"gate_precision", "float32"}};
  std::vector<Preset> presets;
  const auto add = [&](std::string name, std::string model, const MoEConfig& full,
                       const nlohmann::json& options, std::optional<MeasuredShape> measured = std::nullopt) {
    presets.push_back({std::move(name), std::move(model), full, reduce(full), options, std::move(measured)});
  };
  add("mixtral_8x7b", "mistralai/Mixtral-8x7B-v0.1", mixtral_8x7b(), none, MeasuredShape{"mixtral", 8192});
  add("qwen2_moe", "Qwen/Qwen2-57B-A14B", qwen2_moe(), none);
  add("qwen3_30b", "Qwen/Qwen3-30B-A3B", qwen3_30b(), none, MeasuredShape{"qwen3_30b", 16384});
  add("deepseek_v3", "deepseek-ai/DeepSeek-V3", deepseek_v3(), none, MeasuredShape{"dsv3", 8192});
  add("deepseek_v4", "deepseek-ai/DeepSeek-V4-Flash", deepseek_v4(), none);
  add("moonlight", "moonshotai/Moonlight-16B-A3B", moonlight(), none);
  add("gpt_oss_120b", "openai/gpt-oss-120b", gpt_oss_120b(), none, MeasuredShape{"gpt_oss", 8192});
  add("olmoe", "allenai/OLMoE-1B-7B-0924", olmoe(), none, MeasuredShape{"olmoe", 16384});
  add("glm_4_5", "zai-org/GLM-4.5", glm_4_5(), none);
  add("nemotron_3_nano", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", nemotron_3_nano(), none);
  add("minimax_m3", "MiniMaxAI/MiniMax-M3", minimax_m3(), fp32_gate);
  add("gemma_4", "google/gemma-4-26B-A4B", gemma_4(), none);
  add("kimi_k3", "moonshotai/Kimi-K3", kimi_k3(), fp32_gate);
  return presets;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = preset_table();
  return all;
}

std::vector<const Preset*> measured_presets() {
  std::vector<const Preset*> out;
  for (const Preset& preset : presets())
    if (preset.measured) out.push_back(&preset);
  return out;
}

const Preset& find_preset(std::string_view name) {
  const auto it = std::ranges::find(presets(), name, &Preset::name);
  if (it != presets().end()) return *it;
  std::string names;
  for (const Preset& preset : presets()) names += " " + preset.name;
  throw InputError("unknown preset '" + std::string(name) + "': want one of" + names);
}

}  // namespace moeref
