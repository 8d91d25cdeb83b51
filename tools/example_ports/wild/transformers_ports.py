"""transformers: for each config the first family that can express it, and some families' routers by themselves."""

import moeref_port
import transformers_moe  # tools/example_ports/python

import calls
from transformers_layers import (  # noqa: F401
    llama4_moe, longcat_flash_experts, mixtral_experts, mixtral_gate_and_loss, muse_spark_moe, nemotron_h_experts,
    step3p7_experts, switch_loss)

PACKAGES = ["transformers", "torch"]


def of_family(family, *components):
    """The same port with this family's modules alone."""
    port = moeref_port.Port(family or "the first family", **transformers_moe.port.capabilities)
    for component in components:
        def run(config, options, tensors, compute=transformers_moe.port.functions[component]):
            transformers_moe.ONLY = family
            return compute(config, options, tensors)
        port.functions[component] = run
    return port


first_family = of_family("", "gate", "experts", "moe")
qwen3_moe = of_family("qwen3_moe", "gate")
olmoe = of_family("olmoe", "gate")
glm4_moe = of_family("glm4_moe", "gate")
nemotron_h = of_family("nemotron_h", "gate", "experts")
gpt_oss = of_family("gpt_oss", "gate", "experts")
EXPLAINED = [
    {"kind": "port", "finding": "does not require grad",
     "what": "Of a batch without tokens the port asked an output for gradients that depends on no parameter."},
    {"kind": "convention", "cases": "groups_negative", "finding": "chose", "field": "discarded_groups",
     "what": "Experts of discarded groups score minus infinity (DeepSeek-V3, GLM-4, Nemotron-H); under `sigmoid` the documented "
             "system has 0 there, which wins over negative biased scores.",
     "source": ["transformers/models/deepseek_v3/modeling_deepseek_v3.py", '~score_mask.bool(), float("-inf")']},
    {"kind": "convention", "cases": "gate__.*top1", "field": "norm_at_top1",
     "what": "One expert is normalised, too: its weight is always 1, and the router has no gradient.",
     "source": ["transformers/models/qwen3_moe/modeling_qwen3_moe.py", "router_top_value /= router_top_value.sum"]},
    {"kind": "convention", "ports": "first_family gate", "finding": "^outputs/weights\\[\\d+\\] is 1, want", "field": "norm_at_top1",
     "what": "DeepSeek-V4 normalises one expert, too: its weight is always 1.",
     "source": ["transformers/models/deepseek_v4/modeling_deepseek_v4.py", "weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)"]},
    {"kind": "bug", "finding": "Class values must be smaller than num_classes",
     "what": "GPT-OSS's experts skip the id one past the last, which stands for no expert, but have no class for it.",
     "source": ["transformers/models/gpt_oss/modeling_gpt_oss.py", "expert_mask = torch.nn.functional.one_hot("]},
    {"kind": "bug", "finding": "IndexError: index \\d+ is out of bounds",
     "what": "Nemotron-H's experts have a class for the id one past the last, which stands for no expert, and do not skip it.",
     "source": ["transformers/models/nemotron_h/modeling_nemotron_h.py", "num_classes=self.num_experts + 1)"]},
    {"kind": "rounding", "cases": "sqrtsoftplus|deepseek_v4",
     "what": "DeepSeek-V4's scores, sqrt(softplus(logits)), are computed in the layer's 16 bits; the documented system has "
             "float32 there.",
     "source": ["transformers/models/deepseek_v4/modeling_deepseek_v4.py", "self.score_fn(logits)"]},
    {"kind": "bug", "ports": "longcat", "finding": "not enough values to unpack",
     "what": "LongCat's experts take the axis of the slots away where a token has one, and then want it: ValueError with k = 1.",
     "source": ["transformers/models/longcat_flash/modeling_longcat_flash.py", "torch.where(expert_mask[expert_idx].squeeze(0))"]},
    calls.erf("mixtral_experts"),
    {"kind": "bug", "ports": "switch_loss", "finding": "nan",
     "what": "A batch without tokens gives a loss of NaN, a mean over nothing, where no token has no loss.",
     "source": ["transformers/models/switch_transformers/modeling_switch_transformers.py", "torch.mean(expert_mask, axis=-2)"]},
    calls.weight_after_down("transformers/models/mixtral/modeling_mixtral.py",
                            "current_hidden_states * top_k_weights[token_idx, top_k_pos", ports="experts"),
]
