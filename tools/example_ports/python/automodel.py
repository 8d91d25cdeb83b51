#!/usr/bin/env python3
"""The documented system's own classes (nemo_automodel.components.moe.layers) as a port, on the CPU.

    moeref validate --port exec:"python3 tools/example_ports/python/automodel.py" golden/documented_system

AUTOMODEL_EXPERTS=torch_mm takes the grouped matrix products in place of the loop over experts.
"""
import contextlib
import dataclasses
import functools
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "python"))
try:
    with contextlib.redirect_stdout(sys.stderr):  # what packages say when imported
        import torch
        from nemo_automodel.components.models.common import BackendConfig
        from nemo_automodel.components.models.kimi_k3.situ import _weighted_situ
        from nemo_automodel.components.moe.config import MoEConfig
        from nemo_automodel.components.moe.experts import GroupedExperts
        from nemo_automodel.components.moe.layers import MLP, FakeBalancedGate, Gate, MoE
        from nemo_automodel.components.moe.megatron.moe_utils import MoEAuxLossAutoScaler
        from nemo_automodel.components.moe.router_replay import RouterReplayMode

        import automodel_kimi_k3 as kimi_k3
except ImportError as error:
    print(f"automodel.py needs PyTorch and nemo_automodel (on PYTHONPATH, or installed): {error}", file=sys.stderr)
    sys.exit(2)

from moeref_port import NotSupported, Port
from torch_arrays import DTYPES, gradients, one_rank_only, parameters_of, to_numpy, to_torch

port = Port("nemo-automodel", version=f"torch {torch.__version__}", ties="open",
            conventions=["situ", "situ_beta", "situ_linear_beta", "latent_norm", "latent_norm_eps"])
EXPERTS = os.environ.get("AUTOMODEL_EXPERTS", "torch")


def moe_config(config, replays=False):
    """Of the conventions (SPEC 10) the port declares those of Kimi K3 alone, so that the other fields which MoEConfig lacks are at
    their defaults."""
    own = {field.name for field in dataclasses.fields(MoEConfig)}
    fields = {name: value for name, value in config.items() if name in own}
    for field in ("expert_activation", "shared_expert_activation"):
        if config[field] == "situ":
            fields[field] = "swiglu"  # of the same columns; see with_activation and automodel_kimi_k3.py
    fields.update(dtype=DTYPES[config["dtype"]], gate_dtype=DTYPES.get(config["gate_dtype"]))
    if replays:
        fields["enable_routing_replay"] = True
    return MoEConfig(**fields)


def load(module, named):
    """The case's parameters and buffers, bit for bit; what the case does not have stays out."""
    with torch.no_grad():
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in parameters_of(named).items():
            own[name].data = value.clone()
    return module


def make_gate(config, options, named, replay=None):
    gate = Gate(moe_config(config, replay is not None), DTYPES.get(options["gate_precision"]))
    return ready(gate, gate, options, named, replay)


def ready(module, gate, options, named, replay):
    load(module, named).train(options["training"])
    MoEAuxLossAutoScaler.main_loss_backward_scale = torch.tensor(options["aux_loss_backward_scale"])
    if replay is not None:
        gate.router_replay.mode = RouterReplayMode.REPLAY
        gate.router_replay.set_target(replay)
    return module


def mask_of(named, key, tokens):
    return named.get(key, torch.ones(tokens, dtype=torch.bool))


def results(outputs):
    return {"outputs/" + name: to_numpy(value) for name, value in outputs.items() if value is not None}


def trained(module):
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@port.component("gate")
def gate(config, options, tensors):
    one_rank_only(options)
    named = to_torch(tensors)
    x = named["inputs/x"]
    mask = mask_of(named, "inputs/token_mask", len(x))
    module = make_gate(config, options, named, named.get("inputs/replay_indices"))
    weights, indices, aux = module(x, mask, None)
    load = module._compute_expert_load(indices, mask)
    outputs = {"weights": weights, "indices": indices, "expert_load": load, "aux_loss": aux}
    out = results(outputs)
    if tensors.backward:
        out.update(gradients(outputs, named, ["x"], trained(module)))
    return out


@port.component("aux_loss")
def aux_loss(config, options, tensors):
    one_rank_only(options)
    named = to_torch(tensors)
    module = Gate(moe_config(config))
    scores, indices = named["inputs/original_scores"], named["inputs/indices"]
    mask = mask_of(named, "inputs/token_mask", len(scores))
    load = module._compute_expert_load(indices, mask)
    aux = module._compute_aux_loss(scores, load, mask, None)
    out = results({"expert_load": load, "aux_loss": aux})
    if tensors.backward:
        aux.backward()
        out["grads/original_scores"] = to_numpy(scores.grad)
    return out


@port.component("bias_update")
def bias_update(config, options, tensors):
    one_rank_only(options)
    tensors.backward = False
    named = to_torch(tensors)
    replays = any(name.startswith("inputs/replay_indices") for name in named)
    module = load(Gate(moe_config(config, replays), DTYPES.get(options["gate_precision"])), named).train(options["training"])
    out = {}
    for step in range(options.get("steps", 1)):
        for batch in range(options.get("micro_batches", 1)):
            at = f"_{step}_{batch}"
            x = named["inputs/x" + at]
            if replays:
                module.router_replay.mode = RouterReplayMode.REPLAY if "inputs/replay_indices" + at in named else None
                module.router_replay.set_target(named.get("inputs/replay_indices" + at))
            _, out["outputs/indices" + at], _ = module(x, mask_of(named, "inputs/token_mask" + at, len(x)), None)
        out[f"outputs/cumulative_expert_load_{step}"] = module._cumulative_expert_load.clone()
        module.update_bias()
        out[f"outputs/e_score_correction_bias_{step}"] = module.e_score_correction_bias.clone()
    return {name: to_numpy(value) for name, value in out.items()}


@port.component("fake_balanced_gate")
def fake_balanced_gate(config, options, tensors):
    named = to_torch(tensors)
    x = named["inputs/x"]
    module = FakeBalancedGate(moe_config(config), options.get("skip_first_n_experts", 0), options.get("noise", 0.0))
    weights, indices, _ = module(x, mask_of(named, "inputs/token_mask", len(x)), None)
    return results({"weights": weights, "indices": indices})


@port.component("mlp")
def mlp(config, options, tensors):
    named = to_torch(tensors)
    if config["activation"] == "situ":
        module = kimi_k3.mlp(config, DTYPES[config["dtype"]])
    else:
        module = MLP(config["dim"], config["inter_dim"], "torch", DTYPES[config["dtype"]], config["activation"],
                     config["bias"], config["swiglu_limit"])
    load(module, named)
    outputs = {"y": module(named["inputs/x"])}
    out = results(outputs)
    if tensors.backward:
        out.update(gradients(outputs, named, ["x"], trained(module)))
    return out


def with_activation(experts, config):
    """Kimi K3's layer gives GroupedExperts its activation so (models/kimi_k3/model.py, KimiK3MoE)."""
    if config["expert_activation"] == "situ":
        experts.expert_activation_grouped = functools.partial(
            _weighted_situ, beta=config["situ_beta"], linear_beta=config["situ_linear_beta"] or None)
    return experts


@port.component("experts")
def experts(config, options, tensors):
    one_rank_only(options)
    named = to_torch(tensors)
    x, weights, indices = (named["inputs/" + name] for name in ("x", "weights", "indices"))
    module = with_activation(load(GroupedExperts(moe_config(config), backend_config(options)), named), config)
    outputs = {"y": module(x, mask_of(named, "inputs/token_mask", len(x)), weights, indices)}
    out = results(outputs)
    if tensors.backward:
        out.update(gradients(outputs, named, ["x", "weights"], trained(module)))
    return out


@port.component("moe")
def moe(config, options, tensors):
    one_rank_only(options)
    named = to_torch(tensors)
    replay = named.get("inputs/replay_indices")
    if kimi_k3.is_kimi_k3(config):
        module = kimi_k3.layer(config, options, moe_config(config), backend_config(options), replay is not None)
        named = kimi_k3.renamed(named)
    else:
        module = MoE(moe_config(config, replay is not None), backend_config(options))
        with_activation(module.experts, config)
    ready(module, module.gate, options, named, replay)
    seen = {}
    module.gate.register_forward_hook(
        lambda _, __, given: seen.update(zip(("weights", "indices", "aux_loss"), given)) or None)
    outputs = {"y": module(named["inputs/x"], named.get("inputs/padding_mask"))}
    out = results({**outputs, **seen})  # its MoE returns y alone
    if tensors.backward:
        out.update(gradients(outputs, named, ["x"], kimi_k3.documented_names(trained(module))))
    return out


@port.component("init")
def init(config, options, tensors):
    if "torch_cpu_seed" not in options:
        raise NotSupported("the values are drawn by another generator than PyTorch's")
    if kimi_k3.is_kimi_k3(config):
        raise NotSupported("Kimi K3's layer draws its parameters in another order")
    module = MoE(moe_config(config), backend_config(options))
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            value.fill_(options.get("fill_before", 0.0))
        torch.manual_seed(options["torch_cpu_seed"])
        module.init_weights(torch.device("cpu"), options.get("init_std", 0.02))
    return results({**dict(module.named_parameters()), **dict(module.named_buffers())})


def backend_config(options):
    return BackendConfig(attn="sdpa", linear="torch", experts=EXPERTS, dispatcher="torch",
                         fake_balanced_gate=options.get("fake_balanced_gate", False),
                         fake_gate_noise=options.get("fake_gate_noise", 0.0),
                         gate_precision=DTYPES.get(options["gate_precision"]))


if __name__ == "__main__":
    port.main()
