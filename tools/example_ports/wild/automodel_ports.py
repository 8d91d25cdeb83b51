"""NeMo AutoModel, the documented system: gate, loss, bias update, experts, MLP and the whole layer."""

from automodel import port as automodel  # noqa: F401  (tools/example_ports/python)

PACKAGES = ["nemo-automodel", "torch"]
EXPLAINED = [
    {"kind": "bug", "finding": "IndexError: index 0 is out of bounds",
     "what": "The loop over experts raises IndexError on a batch without tokens.",
     "source": ["nemo_automodel/components/moe/experts.py", "dummy_x = torch.zeros_like(x[0]).unsqueeze(0)"]},
]
