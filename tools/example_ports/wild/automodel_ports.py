"""NeMo AutoModel, the documented system: gate, loss, bias update, experts, MLP and the whole layer."""

from automodel import port as automodel  # noqa: F401  (tools/example_ports/python)

PACKAGES = ["nemo-automodel", "torch"]
EXPLAINED = []
