"""Which MoE layers Hugging Face's transformers has, and which of the documented configs each can express.

A family gives the modules of one published model. What a config asks beyond that is "not supported"; what the modules
do differently within it is left as it is, for the verdict to show.
"""

from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class Family:
    name: str  # of the folder in transformers.models
    prefix: str  # of the classes
    config: str
    router: str  # class names behind the prefix; empty where its router is another function than ours
    block: str
    experts: str
    activation: str
    scores: tuple  # score functions of the router
    router_precision: str = "x"  # what the router computes in: x's dtype or float32
    always: dict = field(default_factory=dict)  # config fields that the model fixes
    shared: str = "none"  # none, always, gated
    config_names: dict = field(default_factory=dict)  # ours -> theirs
    extra: dict = field(default_factory=dict)  # fields of theirs

    def modules(self):
        return import_module(f"transformers.models.{self.name}.modeling_{self.name}")

    def get(self, suffix):
        return getattr(self.modules(), self.prefix + suffix)


SOFTMAX = {"softmax_before_topk": True, "router_bias": False, "route_scale": 1.0}
DEEPSEEK = {"router_bias": False, "correction_bias": True}
NAMES = {"n_routed_experts": "num_experts", "moe_inter_dim": "moe_intermediate_size"}
LOCAL = {"n_routed_experts": "num_local_experts", "moe_inter_dim": "intermediate_size"}
GROUPED = {"n_routed_experts": "num_local_experts", "moe_inter_dim": "moe_intermediate_size",
           "n_expert_groups": "n_group", "n_limited_groups": "topk_group", "route_scale": "routed_scaling_factor",
           "n_shared_experts": "n_shared_experts"}

FAMILIES = [
    Family("mixtral", "Mixtral", "MixtralConfig", "TopKRouter", "SparseMoeBlock", "Experts", "swiglu", ("softmax",),
           always={**SOFTMAX, "norm_topk_prob": True}, config_names=LOCAL),
    Family("qwen3_moe", "Qwen3Moe", "Qwen3MoeConfig", "TopKRouter", "SparseMoeBlock", "Experts", "swiglu",
           ("softmax",), always=SOFTMAX, config_names=NAMES),
    Family("qwen2_moe", "Qwen2Moe", "Qwen2MoeConfig", "TopKRouter", "SparseMoeBlock", "Experts", "swiglu",
           ("softmax",), always=SOFTMAX, shared="gated", config_names=NAMES),
    Family("olmoe", "Olmoe", "OlmoeConfig", "TopKRouter", "SparseMoeBlock", "Experts", "swiglu", ("softmax",),
           always=SOFTMAX, config_names={"n_routed_experts": "num_experts", "moe_inter_dim": "intermediate_size"}),
    Family("deepseek_v3", "DeepseekV3", "DeepseekV3Config", "TopkRouter", "MoE", "Experts", "swiglu",
           ("sigmoid", "sigmoid_with_bias"), "float32", DEEPSEEK, "always", GROUPED),
    Family("glm4_moe", "Glm4Moe", "Glm4MoeConfig", "TopkRouter", "MoE", "Experts", "swiglu",
           ("sigmoid", "sigmoid_with_bias"), "float32", DEEPSEEK, "always", GROUPED),
    Family("deepseek_v4", "DeepseekV4", "DeepseekV4Config", "TopKRouter", "SparseMoeBlock", "Experts", "swiglu_limit",
           ("sqrtsoftplus",), always={**DEEPSEEK, "norm_topk_prob": True}, shared="always",
           config_names={**LOCAL, "route_scale": "routed_scaling_factor", "swiglu_limit": "swiglu_limit"}),
    Family("gpt_oss", "GptOss", "GptOssConfig", "TopKRouter", "MLP", "Experts", "quick_geglu", ("softmax",),
           always={"softmax_before_topk": False, "router_bias": True, "route_scale": 1.0, "expert_bias": True},
           config_names={**LOCAL, "activation_limit": "swiglu_limit", "activation_alpha": "swiglu_alpha"}),
    Family("minimax_m3_vl", "MiniMaxM3VL", "MiniMaxM3VLTextConfig", "TopKRouter", "", "Experts", "swigluoai",
           ("sigmoid",), always={**DEEPSEEK, "norm_topk_prob": True, "route_scale": 1.0, "n_expert_groups": 1},
           config_names={**LOCAL, "activation_limit": "swiglu_limit", "activation_alpha": "swiglu_alpha"}),
    Family("nemotron_h", "NemotronH", "NemotronHConfig", "TopkRouter", "MoE", "Experts", "relu2",
           ("sigmoid", "sigmoid_with_bias"), "float32", DEEPSEEK, "always",
           {**GROUPED, "n_routed_experts": "n_routed_experts", "moe_latent_size": "moe_latent_size"}),
    Family("gemma4", "Gemma4Text", "Gemma4TextConfig", "", "", "Experts", "geglu", (),
           config_names=NAMES, extra={"hidden_activation": "gelu_pytorch_tanh"}),
]


def activation_of(config):
    limited = config["expert_activation"] == "swiglu" and config["swiglu_limit"] > 0
    return "swiglu_limit" if limited else config["expert_activation"]


def has_correction_bias(config):
    return config["gate_bias_update_factor"] > 0 or config["force_e_score_correction_bias"]


def router_objection(family, config, options, x_dtype):
    """Why the family's router cannot be given this config, or an empty text."""
    if config["score_func"] not in family.scores:
        return f"its score function is not {config['score_func']}"
    wants = {**config, "correction_bias": has_correction_bias(config)}
    for name, value in family.always.items():
        if name != "expert_bias" and wants[name] != value:
            return f"its {name} is always {value}"
    precision = options["gate_precision"]
    own = x_dtype if family.router_precision == "x" else family.router_precision
    if precision not in (None, own) or (precision is None and x_dtype == "float64" != own):
        return f"its router computes in {own}"
    if config["router_weight_uses_score_correction_bias"]:
        return "its weights have no correction bias"
    return ""


def experts_objection(family, config):
    if activation_of(config) != family.activation:
        return f"its experts have {family.activation}"
    if config["expert_bias"] != (family.activation == "quick_geglu"):
        return "its experts have " + ("a bias" if family.activation == "quick_geglu" else "no bias")
    return ""


def block_objection(family, config):
    if not family.block:
        return "its layer is no module of its own"
    if config["moe_latent_size"] is not None and "moe_latent_size" not in family.config_names:
        return "it has no latent projections"
    if (config["n_shared_experts"] > 0) != (family.shared != "none"):
        return "it " + ("always has" if family.shared != "none" else "has no") + " shared experts"
    if config["n_shared_experts"] > 0:
        if config["shared_expert_gate"] != (family.shared == "gated"):
            return "its shared experts are " + ("always" if family.shared == "gated" else "never") + " gated"
        if (config["shared_expert_activation"] == "relu2") != (family.name == "nemotron_h"):
            return "its shared experts have another activation"
        if config["shared_expert_inter_dim"] is not None and family.name not in ("qwen2_moe", "nemotron_h"):
            return "its shared experts are as wide as the routed ones"
        if family.name == "deepseek_v4" and config["n_shared_experts"] != 1:
            return "it has one shared expert"
    return ""


def make_config(family, config, experts_implementation):
    fields = {theirs: config[ours] for ours, theirs in family.config_names.items()}
    if family.activation == "swigluoai" and config["activation_limit"] <= 0:
        fields["swiglu_limit"] = float("inf")  # 0 means no limit here
    shared = config["n_shared_experts"] * (config["shared_expert_inter_dim"] or config["moe_inter_dim"])
    fields.update(family.extra, hidden_size=config["dim"], num_experts_per_tok=config["n_activated_experts"])
    if "norm_topk_prob" not in family.always:
        fields["norm_topk_prob"] = config["norm_topk_prob"]
    if family.name == "qwen2_moe":
        fields["shared_expert_intermediate_size"] = shared
    if family.name == "nemotron_h":
        fields["moe_shared_expert_intermediate_size"] = shared
    made = getattr(import_module(f"transformers.models.{family.name}.configuration_{family.name}"), family.config)()
    for name, value in fields.items():
        setattr(made, name, value)
    made._experts_implementation = experts_implementation
    if family.name == "deepseek_v4":
        made.mlp_layer_types = ["moe"]
    return made
