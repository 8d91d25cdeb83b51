"""NeMo AutoModel, the documented system: gate, loss, bias update, experts, MLP and the whole layer."""

from automodel import port as automodel  # noqa: F401  (tools/example_ports/python)

PACKAGES = ["nemo-automodel", "torch"]
EXPLAINED = [
    {"kind": "bug", "finding": "IndexError: index 0 is out of bounds",
     "what": "The loop over experts raises IndexError on a batch without tokens.",
     "source": ["nemo_automodel/components/moe/experts.py", "dummy_x = torch.zeros_like(x[0]).unsqueeze(0)"]},
    {"kind": "bug", "cases": "expert_poison", "finding": "is nan",
     "what": "Where no token is routed, zeros pass through the first expert and are added to y[0, 0]: with NaN in that expert's weights, "
             "which nobody uses, the output is NaN.",
     "source": ["nemo_automodel/components/moe/experts.py", "gate_and_up_out = dummy_x @ gate_and_up_projs[0]"]},
    {"kind": "limit", "ports": "aux_loss", "finding": "index -1 is out of bounds",
     "what": "The loss by itself takes no id of -1, which stands for no expert; the package's own gate never gives one.",
     "source": ["nemo_automodel/components/moe/layers.py", "expert_mask.scatter_(dim=1, index=indices, src=contribution)"]},
]
