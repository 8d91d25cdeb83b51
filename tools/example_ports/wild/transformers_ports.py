"""transformers: for each config the first family that can express it, and some families' routers by themselves."""

import moeref_port
import transformers_moe  # tools/example_ports/python

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
EXPLAINED = []
