"""Megatron-Core's SequentialMLP, the experts of a layer of one rank without Transformer Engine."""

import moeref
import torch
from megatron.core.activations import squared_relu
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from torch.func import functional_call
from torch.nn import functional

import calls

GATED = {"swiglu": functional.silu, "geglu_erf": functional.gelu}
UNGATED = {"relu2": squared_relu, "silu": functional.silu, "gelu": functional.gelu, "relu": functional.relu}


def is_experts(config):
    if config["apply_router_weight_after_down"]:
        return "routing weights multiply activations, or tokens"
    if config["router_weight_on_input"] and config["n_activated_experts"] > 1:
        return "weights multiply tokens where there is one expert for each"
    return calls.experts_decline(config, *GATED, *UNGATED)


@moeref.port("experts", arrays="torch", autograd=True, supports=is_experts,
             conventions=["router_weight_on_input", "geglu_erf", "silu", "gelu", "relu"])
def sequential_experts(config, x, weights, indices, gate_and_up_projs, down_projs, token_mask=None):
    calls.one_type(x, gate_and_up_projs)
    experts, k, activation = config["n_routed_experts"], config["n_activated_experts"], config["expert_activation"]
    group = torch.distributed.group.WORLD
    settings = TransformerConfig(
        num_layers=1, hidden_size=x.shape[1], num_attention_heads=1, num_moe_experts=experts, moe_router_topk=k,
        ffn_hidden_size=config["moe_inter_dim"], moe_ffn_hidden_size=config["moe_inter_dim"], add_bias_linear=False,
        gated_linear_unit=activation in GATED, activation_func={**GATED, **UNGATED}[activation], use_cpu_initialization=True,
        params_dtype=x.dtype, bias_activation_fusion=False, gradient_accumulation_fusion=False,
        moe_router_pre_softmax=True, moe_apply_probs_on_input=config["router_weight_on_input"])
    layer = SequentialMLP(experts, settings, MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
                          ProcessGroupCollection(ep=group, expt_tp=group, expt_dp=group))
    held = {}
    for one in range(experts):
        held[f"local_experts.{one}.linear_fc1.weight"] = gate_and_up_projs[one].T
        held[f"local_experts.{one}.linear_fc2.weight"] = down_projs[one].T

    def compute(x, weights, ids):
        order = ids.flatten().argsort(stable=True)  # its dispatcher's part: by expert, and back
        rows, load = order // k, torch.bincount(ids.flatten(), minlength=experts)
        y, _ = functional_call(layer, held, (x[rows], load, weights.flatten()[order]))
        return torch.zeros(x.shape, dtype=torch.float32).index_add(0, rows, y.float()).to(x.dtype)

    return {"y": calls.of_real_tokens(compute, x, weights, indices, token_mask)}
