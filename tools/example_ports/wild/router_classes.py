#!/usr/bin/env python3
"""Prints which router classes of transformers the config can express: router_classes.py router_classes.json > ROUTER_CLASSES.md

The same goes into the file that is named, for page.py, with how many passing calls of a class fail when the fields of a convention
(conventions.json) are at their defaults.

Each class is made with small sizes and random parameters, runs forward and backward on random tokens in float32 and in
bfloat16, and the reference judges its routing weights, its choice and its gradients under the fields of its row. Needs
torch, transformers and the package moeref, on a CPU.
"""
import collections
import contextlib
import importlib
import inspect
import json
import math
import pathlib
import re
import sys
import types
import unittest.mock

import moeref
import torch
import transformers

import conventions
from conventions_page import TYPES, holds

TOKENS, DIM, EXPERTS, CAPACITY, SEEDS = 16, 16, 8, 3, 5
ENDS = re.compile(r"^class (\w+(?:Router|TopKGating|MoEV1Gate))\(", re.MULTILINE)
NO_ROUTERS = {"GraniteDoclingDensityRouter": "scores the resolution of images"}

# What the classes read of their models' configs, under every name that any of them has for it.
SETTINGS = {
    **dict.fromkeys(["num_experts", "num_local_experts", "moe_num_experts", "n_routed_experts"], EXPERTS),
    **dict.fromkeys(["routed_scaling_factor", "route_scale", "router_scaling_factor"], 2.5),
    "hidden_size": DIM, "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "output_multiplier": 0.5,
    "moe_router_logit_softcapping": 2.0, "moe_norm_min": 1e-12, "expert_selection_fn": "sigmoid",
    "scoring_func": "sqrtsoftplus", "topk_method": "group_limited_greedy", "use_expert_bias": True, "rms_norm_eps": 1e-6,
    "zero_expert_num": 0, "vocab_size": 32, "n_shared_experts": 1, "router_bias": False, "moe_jitter_eps": None,
    "router_jitter_noise": 0.01, "input_jitter_noise": 0.0, "expert_capacity": CAPACITY, "router_dtype": "float32",
    "router_ignore_padding_tokens": False, "second_expert_policy": "all", "normalize_router_prob_before_dropping": False,
    "batch_prioritized_routing": False, "moe_eval_capacity_token_fraction": -1.0,
}
BIAS_NAMES = ("e_score_correction_bias", "moe_statics.e_score_correction_bias")
WEIGHT_NAMES = ("weight", "gate.weight", "wg.weight", "layer.weight", "classifier.weight", "proj.weight")


class Row:
    """The classes of these models, which follow one rule: `fields` of the config, and the type that they compute in.

    `computes` is float32, x (the layer's type, scores too) or mixed: the product in the layer's type and scores in
    float32. `returns` is the type of the weights, float32 or x. `lacks` says what the config has no field for; then
    the fields are those of the nearest rule. `rounds` says why bfloat16 differs.
    """

    def __init__(self, models, fields, computes="mixed", returns="x", ks=(3, 1), settings=None, lacks="", rounds=""):
        self.models, self.fields, self.computes, self.returns = models.split(), fields, computes, returns
        self.ks, self.settings, self.lacks, self.rounds = ks, settings or {}, lacks, rounds

    def modes(self):
        """How its calls are drawn: plain, and where the denominator's rule shows."""
        if "norm_denominator" in self.fields and self.fields["score_func"] == "softmax_with_bias":
            return ["plain", "sharp"]
        small = self.fields["score_func"] == "sigmoid" and "norm_eps" in self.fields and "logit_cap" not in self.fields
        return ["plain", "quiet"] if small else ["plain"]

    def lacking(self, fields):
        """The row with these fields at their defaults."""
        kept = {name: value for name, value in self.fields.items() if name not in fields}
        return Row(" ".join(self.models), kept, self.computes, self.returns, self.ks, self.settings)

    def wrong(self):
        """A row that no class of this one may pass: other weights."""
        after = self.fields.get("score_func") == "softmax" and "softmax_before_topk" not in self.fields
        changed = "softmax_before_topk" if after else "norm_topk_prob"
        fields = {**self.fields, changed: not self.fields.get(changed, False), "norm_at_top1": "weights_and_scores"}
        return Row(" ".join(self.models), fields, self.computes, self.returns, self.ks, self.settings)


NORMALISED = {"norm_topk_prob": True, "norm_at_top1": "weights_and_scores"}
NO_EPS = {**NORMALISED, "norm_eps": 0.0}
BIASED = {"force_e_score_correction_bias": True}
GROUPS = {"n_expert_groups": 4, "n_limited_groups": 2}
BEFORE = {"score_func": "softmax", "softmax_before_topk": True}
DEEPSEEK_V3 = {"score_func": "sigmoid_with_bias", **NORMALISED, **BIASED, **GROUPS}
SCALED = {"route_scale": 2.5}
SIGMOID = {"score_func": "sigmoid", **BIASED}
IN_16_BITS = "sqrt(softplus(logits)) is computed in the layer's 16 bits"
ROWS = [
    Row("AXK1 BailingHybrid DeepseekV3 DeepseekV32 Dots1 Dots3NoteText ExaoneMoe Glm4Moe Glm4MoeLite Glm4vMoeText "
        "Glm5NextText GlmMoeDsa HYV4 HYV4VL KimiLinear MiMoV2Flash NemotronH SolarOpen",
        {**DEEPSEEK_V3, **SCALED}, "float32", "float32"),
    Row("AXK2", {**DEEPSEEK_V3, **SCALED, "discarded_groups": "zero"}, "float32", "float32"),
    Row("Beam", DEEPSEEK_V3, "float32", "float32"),
    Row("DeepseekOcr2Text DeepseekV2 UnlimitedOcrText",
        {"score_func": "softmax_with_bias", "group_score": "largest", "discarded_groups": "zero", **GROUPS, **SCALED},
        "float32", "float32"),
    Row("Mistral4", {"score_func": "softmax_with_bias", **NORMALISED, **GROUPS, **SCALED}, "x"),
    Row("MistralLarge4Text", {"score_func": "softmax_with_bias", **NORMALISED, **GROUPS, **SCALED}, "float32", "float32"),
    Row("FlexOlmo Mellum Olmoe Qwen2Moe Qwen3Moe Qwen3Next Qwen3OmniMoeThinkerText Qwen3OmniMoeTalkerText Qwen4ExpText "
        "Qwen3_5Moe Qwen3OmniMoeText Qwen3VLMoeText", {**BEFORE, **NO_EPS}),
    Row("MiniMax Mixtral", {**BEFORE, **NO_EPS}, returns="float32"),
    Row("HunYuanMoEV1", {**BEFORE, **NO_EPS}, "float32", "float32"),
    Row("LaraMini", {**BEFORE, **NO_EPS}, "float32"),
    Row("Dbrx", {**BEFORE, **NO_EPS}, "x"),
    Row("Jamba", BEFORE),
    Row("GraniteMoe GraniteMoeHybrid GraniteMoeShared GraniteMoeSWA JetMoe", {"score_func": "softmax"}),
    Row("AriaText", {"score_func": "softmax"}, "x"),
    Row("GptOss", {"score_func": "softmax", "router_bias": True}, "x"),
    Row("OpenAIPrivacyFilter", {"score_func": "softmax", "router_bias": True, "route_scale": "1 / k"}, "float32", "float32"),
    Row("Ernie4_5_Moe Ernie4_5_VLMoeMoe",
        {"score_func": "softmax_with_bias", **BIASED, **NORMALISED, "norm_denominator": "max_of_sum_and_eps",
         "norm_eps": 1e-12}, "float32"),
    Row("LongcatFlash", {"score_func": "softmax_with_bias", **BIASED, **SCALED}, "float32", "float32",
        settings={"n_routed_experts": EXPERTS - 2, "zero_expert_num": 2}),
    Row("Dots3NoteVision HYV3", {**SIGMOID, **NORMALISED, **SCALED}, "float32", "float32"),
    Row("AfmoeTokenChoice", {**SIGMOID, **NORMALISED, **SCALED}, returns="float32"),
    Row("MiniMaxM2 MiniMaxM3VL Step3p7", {**SIGMOID, **NO_EPS}, returns="float32"),
    Row("MuseSpark", {**SIGMOID, **NORMALISED, **SCALED, "norm_eps": 1e-15, "logit_scale": 0.5}, "float32", "float32"),
    Row("Laguna", {**SIGMOID, **NO_EPS, "logit_cap": 2.0}),
    Row("Lfm2Moe", {**SIGMOID, **NORMALISED, **SCALED, "norm_eps": 1e-6}, "x"),
    Row("Kolibri1", {**SIGMOID, **NO_EPS, "selection_scores": "logits"}, "float32", "float32"),
    Row("Cohere2Moe", {"score_func": "sigmoid", **NO_EPS, "selection_scores": "logits"}, "x"),
    Row("Llama4", {"score_func": "sigmoid", "selection_scores": "logits"}),
    Row("Flint", {"score_func": "sigmoid", **NO_EPS}, "float32", "float32"),
    Row("Inkling2 Inkling2Loop", {"score_func": "sqrtsoftplus", **BIASED, **NORMALISED, **SCALED}, "float32", "float32"),
    Row("DeepseekV4", {"score_func": "sqrtsoftplus", **BIASED, **NORMALISED, **SCALED}, rounds=IN_16_BITS),
    Row("DeepseekV4Hash", {"score_func": "sqrtsoftplus", **NORMALISED, **SCALED, "enable_routing_replay": True}, rounds=IN_16_BITS),
    Row("Gemma4Text DiffusionGemmaText", {**BEFORE, **NO_EPS, "per_expert_scale": True, "router_input_norm": True}),
    Row("Inkling", {**SIGMOID, **NO_EPS, **SCALED, "n_always_selected": 1}, "float32"),
    Row("Phimoe", BEFORE, ks=(2,), lacks="each expert's softmax leaves out logits that are far below the largest (sparsemixer)"),
    Row("SwitchTransformersTop1", {**BEFORE, "expert_capacity": CAPACITY, "router_jitter": True}, ks=(1,)),
    Row("NllbMoeTop2",
        {**BEFORE, **NORMALISED, "norm_denominator": "max_of_sum_and_eps", "norm_eps": 2.0**-23, "expert_capacity": CAPACITY,
         "capacity_order": "choice", "norm_after_dropping": True}, ks=(2,)),
    Row("Zaya", {}, ks=(), lacks="logits come from an MLP on states that pass from layer to layer, and one choice is no expert"),
]


def router_classes():
    """{class name: module name} of every router in the models' files."""
    found = {}
    for file in sorted(pathlib.Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        for name in ENDS.findall(file.read_text(encoding="utf-8")):
            if name not in NO_ROUTERS:
                found[name] = f"transformers.models.{file.parent.name}.{file.stem}"
    return found


def model_of(name):
    return re.sub(r"(TopKRouter|TopkRouter|Top1Router|Top2Router|Router|TopKGating|Gate)$",
                  lambda end: end[0][:4] if end[0].startswith(("Top1", "Top2")) else "", name)


def row_of(name):
    return next((row for row in ROWS if model_of(name) in row.models), None)


def make(kind, module, row, k, dtype):
    """The router with random parameters."""
    settings = types.SimpleNamespace(**{**SETTINGS, **row.settings, "num_experts_per_tok": k, "moe_topk": k, "top_k_experts": k})
    torch.set_default_dtype(dtype)
    try:
        router = kind(DIM, EXPERTS, k) if kind.__name__ == "JetMoeTopKGating" else kind(settings)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in [*router.named_parameters(), *router.named_buffers()]:
        if name == "tid2eid":
            tensor.data = torch.stack([torch.randperm(EXPERTS)[:k] for _ in range(tensor.shape[0])])
        elif name == "global_scale":  # on the weights, beside route_scale
            tensor.data.fill_(1.0)
        elif name.endswith("scale"):
            tensor.data.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.data.normal_(0.0, 0.1 if name.endswith("correction_bias") else DIM**-0.5)
    return router


def named(router, names):
    tensors = {**dict(router.named_parameters()), **dict(router.named_buffers())}
    return next((tensors[name] for name in names if name in tensors), None)


def routed(router, module, x, k, correction, tokens):
    """Its weights and ids [T, k], whatever it returns them as."""
    name = type(router).__name__
    extra = {"input_ids": tokens, "e_score_correction_bias": correction, "expert_bias": correction}
    arguments = [extra[p] for p in list(inspect.signature(router.forward).parameters)[1:] if p in extra]
    if name == "SwitchTransformersTop1Router":
        x = x * 1  # which it multiplies in place
    out = router(x[None] if name in ("AfmoeTokenChoiceRouter", "SwitchTransformersTop1Router") else x, *arguments)
    if name == "DbrxRouter":
        rule = types.SimpleNamespace(top_k=k, moe_normalize_expert_weights=1)
        return module.DbrxFFN.route_tokens_to_experts(rule, out)
    if name == "JetMoeTopKGating":
        order, _, gates, _, logits = out
        return torch.zeros_like(gates).index_put((order,), gates).view(-1, k), logits.topk(k, dim=1).indices
    if name == "Llama4Router":
        ids = out[1].topk(k, dim=1).indices
        return out[0].gather(1, ids), ids
    if name == "SwitchTransformersTop1Router":
        return out[1][0] * out[0][0].sum(-1, keepdim=True), out[2][0].argmax(-1, keepdim=True)
    if name == "NllbMoeTop2Router":
        ids = out[2].topk(2, dim=1).indices
        return out[1].gather(1, ids), ids
    if name.startswith(("Gemma4", "DiffusionGemma")):
        return out[1], out[2]
    ids = next(t for t in out if t.dtype == torch.int64 and t.shape == (TOKENS, k))
    if name == "InklingTopkRouter":
        shared = EXPERTS + torch.arange(out[3].shape[1]).expand(TOKENS, -1)
        return torch.cat((out[1], out[3]), 1), torch.cat((ids, shared), 1)
    return next(t for t in out if t.is_floating_point() and t.shape == (TOKENS, k)), ids


def draw(router, row, mode, x):
    """The tokens of a mode, for which the router's parameters are changed. Quiet: logits so low that sigmoids are near eps; sharp:
    softmax scores far apart, of which a large bias chooses."""
    weight = named(router, WEIGHT_NAMES)
    if mode == "quiet":
        low = (1 - math.log(row.fields["norm_eps"] or 1e-20)) / row.fields.get("logit_scale", 1.0)
        weight.data += DIM**-0.5
        x = x - low * DIM**-0.5
    if mode == "sharp":
        weight.data *= 20
        named(router, BIAS_NAMES).data.mul_(20)
    return x


@contextlib.contextmanager
def given_noise(router, dtype):
    """Yields the noise that a router in training multiplies its tokens by, of the layer's type, in place of what it draws."""
    noise = torch.empty(TOKENS, DIM, dtype=dtype).uniform_(0.5, 1.5)
    with unittest.mock.patch.object(torch.Tensor, "uniform_", lambda drawn, *_: drawn.copy_(noise)):
        yield noise


def calls_of(row, *dtypes):
    return [(k, dtype, mode, seed) for k in row.ks for dtype in dtypes for mode in row.modes() for seed in range(SEEDS)]


def judged(kind, module, row, call, judged_as=None):
    """The reference's verdict on one call, forward and backward, under the row's fields or another's."""
    k, dtype, mode, seed = call
    torch.manual_seed(seed)
    router = make(kind, module, row, k, dtype)
    x = draw(router, row, mode, torch.randn(TOKENS, DIM, dtype=dtype)).to(dtype).requires_grad_()
    tokens = torch.randint(SETTINGS["vocab_size"], (TOKENS,))
    correction = named(router, BIAS_NAMES)
    takes = list(inspect.signature(router.forward).parameters)
    if correction is None and ("e_score_correction_bias" in takes or "expert_bias" in takes):
        correction = 0.1 * torch.randn(EXPERTS)
    with given_noise(router.train(bool(row.fields.get("router_jitter"))), dtype) as noise:
        weights, ids = routed(router, module, x, k, correction, tokens)
    shared = row.fields.get("n_always_selected", 0)  # beside EXPERTS and k
    experts = EXPERTS + shared
    cotangent = torch.randn(TOKENS, k + shared).to(weights.dtype)
    (weights * cotangent).sum().backward()

    weight, bias, scale = named(router, WEIGHT_NAMES), named(router, ("bias",)), named(router, ("per_expert_scale",))
    fields = {**(judged_as or row).fields, "dtype": str(dtype)[6:], "gate_dtype": str(weight.dtype)[6:],
              "router_weights_fp32": row.returns == "float32"}
    if fields.get("route_scale") == "1 / k":
        fields["route_scale"] = 1.0 / k
    config = {"n_routed_experts": experts, "n_shared_experts": 0, "n_activated_experts": k + shared, "n_expert_groups": 1,
              "n_limited_groups": 1, "train_gate": True, "gate_bias_update_factor": 0.0, "aux_loss_coeff": 0.0,
              "route_scale": 1.0, "dim": DIM, "inter_dim": DIM, "moe_inter_dim": DIM, "norm_topk_prob": False, **fields}
    options = {"float32": {"gate_precision": "float32"}, "x": {"gate_precision": str(dtype)[6:]}, "mixed": {}}[row.computes]
    given = {"inputs/x": x.detach(), "params/weight": weight.detach()[:experts], "cotangents/weights": cotangent}
    results = {"outputs/weights": weights.detach(), "outputs/indices": ids, "grads/x": x.grad,
               "outputs/expert_load": torch.bincount(ids.flatten(), minlength=experts),
               "grads/weight": weight.grad[:experts]}
    if config.get("force_e_score_correction_bias"):
        given["params/e_score_correction_bias"] = torch.nn.functional.pad(correction.detach().float().flatten(), (0, shared))
    if config.get("router_bias"):
        given["params/bias"], results["grads/bias"] = bias.detach(), bias.grad
    if config.get("per_expert_scale"):
        given["params/per_expert_scale"], results["grads/per_expert_scale"] = scale.detach(), scale.grad
    if config.get("expert_capacity"):
        results["outputs/dispatched_indices"] = torch.where(weights == 0, -1, ids)
    if config.get("router_input_norm"):
        scale = named(router, ("scale",))
        given["params/input_scale"], results["grads/input_scale"] = scale.detach(), scale.grad
    if config.get("router_jitter"):
        given["inputs/router_noise"] = noise
    if config.get("enable_routing_replay"):
        given["inputs/replay_indices"] = ids
    return moeref.judge("gate", config, given, results, options=options)


def verdicts(kind, module, row, dtype):
    """(how many calls pass, of how many, the first failure in words)."""
    counts, first = collections.Counter(), ""
    for call in calls_of(row, dtype):
        verdict = judged(kind, module, row, call)
        counts[verdict.verdict] += 1
        if not verdict and not first:
            first = f"{verdict.first_failure.tensor}, r = {verdict.first_failure.ratio:.3g}, k = {call[0]}"
    return counts["PASS"] + counts["AMBIGUOUS"], sum(counts.values()), first


def tried(kind, module, row, dtype):
    """(how many calls pass, of how many, that in words). A class that passes under a wrong row too was not tried at all."""
    passed, of, first = verdicts(kind, module, row, dtype)
    if passed and verdicts(kind, module, row.wrong(), dtype)[0] == passed:
        raise SystemExit(f"{kind.__name__} passes whatever the row says")
    text = f"{passed} of {of} pass" if of else "not run"
    return passed, of, text + (f" ({first})" if first else "")


def told_apart(kind, module, row):
    """{convention: how many calls pass, and fail without its fields}, None where there is no call without."""
    found = {}
    for convention in conventions.TABLE["rows"]:
        if not holds(convention, row.fields):
            continue
        without = row.lacking(convention["fields"])
        try:
            found[convention["id"]] = sum(
                bool(judged(kind, module, row, call)) and not judged(kind, module, row, call, without)
                for call in calls_of(row, *(getattr(torch, name) for name in TYPES)))
        except moeref.InputError:
            found[convention["id"]] = None
    return found


def words(row):
    return ", ".join(f"{name} = {str(value).lower() if isinstance(value, bool) else value}" for name, value in row.fields.items())


COMPUTES = {"float32": "`gate_precision` float32", "x": "`gate_precision` the layer's type", "mixed": "scores in float32"}


def main():
    torch.set_num_threads(1)
    lines, found, expressible, bfloat16_too, classes = [], {}, 0, 0, router_classes()
    for name, path in classes.items():
        row = row_of(name)
        if row is None:
            raise SystemExit(f"{path}.{name} has no row")
        module = importlib.import_module(path)
        cells, passes, calls = [], [], {}
        for dtype in (torch.float32, torch.bfloat16):
            passed, of, text = tried(getattr(module, name), module, row, dtype)
            calls[str(dtype)[6:]] = {"passed": passed, "of": of}
            passes.append(of > 0 and passed == of)
            cells.append(text)
        agrees = passes[0] and not row.lacks
        found[name] = {"fields": row.fields, **calls,
                       "told_apart": told_apart(getattr(module, name), module, row), "rounds": row.rounds, "expressible": agrees}
        expressible += agrees
        bfloat16_too += agrees and passes[1]
        verdict = "yes" if agrees else f"no: {row.lacks}" if row.lacks else "no: unexplained"
        lines.append(f"| {name} | {path.split('.')[2]} | {words(row)} | {COMPUTES[row.computes]}, weights in "
                     f"{'float32' if row.returns == 'float32' else 'that type'} | {cells[0]} | {cells[1]} | {verdict} |")
    print(f"""# Router classes of transformers {transformers.__version__}

Made by `router_classes.py`. Every class in the models' files whose name says that it is a router was made with {EXPERTS} experts and
random parameters and ran forward and backward on {TOKENS} random tokens, {SEEDS} times for each k, in float32 and in bfloat16; and where
its denominator has another eps or rule as often on tokens whose scores are so small that this shows. The reference
judged its choice, its weights and its gradients under the fields of its row (`moeref list fields`). A field that its model's config
sets has the value that was tried. Where the config lacks a field for what a class does, the row is the nearest, and its failures show
what is missing. Each class that passes was seen to fail under a row with other weights. A class with router_jitter ran in training, with noise of half to one and a half that the call gives. In bfloat16 the first failure is named; classes that compute in the layer's type round where the reference's rows have float32.

**{expressible} of {len(classes)}** classes are expressible, {bfloat16_too} of them within the bounds of bfloat16, too.
Left out: {", ".join(f"{name} ({why})" for name, why in NO_ROUTERS.items())}.

| class | model | fields | computes in | float32 | bfloat16 | expressible |
|---|---|---|---|---|---|---|""")
    print("\n".join(lines))
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"transformers": transformers.__version__, "calls": SEEDS, "classes": found}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
