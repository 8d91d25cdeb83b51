"""A port that does what ports do wrong: prints, reads stdin, raises, exits, returns nonsense."""

import os
import sys

import numpy as np

from moeref_port import NotSupported, Port

port = Port("talkative", version="7", passes=["forward"], max_ranks=2)


@port.component("mlp")
def mlp(config, options, tensors):
    print("printed by the port")
    os.write(1, b"written by C code\n")
    os.system("echo said by a child")
    x = tensors["inputs/x"]
    wish = int(x.flat[0])
    if wish == 1:
        raise NotSupported("not this one")
    if wish == 2:
        raise RuntimeError("first line\nsecond line")
    if wish == 3:
        sys.exit(5)
    if wish == 4:
        return {"y": x}
    if wish == 5:
        return {"outputs/y": np.array([len(sys.stdin.read()), tensors.backward], float)}
    return {"outputs/y": 2 * x}


if __name__ == "__main__":
    port.main()
