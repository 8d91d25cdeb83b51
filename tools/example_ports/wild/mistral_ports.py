"""mistral-inference: its layer, with experts as its transformer has them."""

import moeref
import torch
from mistral_inference.moe import MoeArgs, MoeLayer
from torch.func import functional_call

import calls

PACKAGES = ["mistral-inference", "torch"]


class FeedForward(torch.nn.Module):
    """mistral_inference.transformer_layers.FeedForward, whose module needs xformers."""

    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.w1 = torch.nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = torch.nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = torch.nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x):
        return self.w2(torch.nn.functional.silu(self.w1(x)) * self.w3(x))


def is_layer(config):
    if config["n_shared_experts"] > 0 or config["moe_latent_size"] is not None:
        return "it has neither shared experts nor latent projections"
    plain = calls.experts_decline(config, "swiglu")
    return plain if plain is not True else calls.declines(config, scores=("softmax",), softmax="after", route_scale=1.0)


@moeref.port("moe", arrays="torch", autograd=True, supports=is_layer)
def moe(config, options, x, gate_weight, experts_gate_and_up_projs, experts_down_projs, padding_mask=None):
    calls.precision(options)
    sizes = config["dim"], config["moe_inter_dim"]
    layer = MoeLayer([FeedForward(*sizes) for _ in range(config["n_routed_experts"])],
                     torch.nn.Linear(config["dim"], config["n_routed_experts"], bias=False),
                     MoeArgs(config["n_routed_experts"], config["n_activated_experts"]))
    held = {"gate.weight": gate_weight}
    gates, ups = calls.gate_up(experts_gate_and_up_projs)
    for one, (gate, up, down) in enumerate(zip(gates, ups, experts_down_projs)):
        held.update({f"experts.{one}.w1.weight": gate, f"experts.{one}.w3.weight": up, f"experts.{one}.w2.weight": down.T})
    logits = []
    layer.gate.register_forward_hook(lambda _, __, given: logits.append(given))
    y = functional_call(layer, held, (x.reshape(-1, x.shape[-1]),)).reshape(x.shape)
    if padding_mask is not None:
        y = y.masked_fill(padding_mask[..., None], 0)
    return {"y": y, "indices": torch.topk(logits[0], config["n_activated_experts"])[1]}  # as in its forward


EXPLAINED = [
    calls.weight_after_down("mistral_inference/moe.py",
                            "results[batch_idx] += weights[batch_idx, nth_expert, None] * expert(inputs[batch_idx])"),
]
