#!/usr/bin/env python3
"""What one layer moves and keeps on each of n ranks, by formula and by simulation: the tables of SCALE.md.

    python3 cuda_impl/parallel/scale_model.py

Routing is even: each token takes k distinct experts of E, all sets alike. Sizes in bfloat16.
"""
import random

# name: tokens a rank, D, I, E, k
SHAPES = {"mixtral": (8192, 4096, 14336, 8, 2), "qwen3_30b": (16384, 2048, 768, 128, 8),
          "dsv3": (8192, 7168, 2048, 256, 8)}
RANKS = (2, 4, 8, 16, 32, 64)
MIB, GIB = 2 ** 20, 2 ** 30


def peers_of_token(experts, k, ranks):
    """Ranks that hold at least one of a token's experts, on average."""
    own = experts // ranks
    none = 1.0
    for i in range(k):
        none *= max(0, experts - own - i) / (experts - i)
    return ranks * (1 - none)


def simulated_peers(experts, k, ranks, tokens=20000):
    rng = random.Random(experts * ranks + k)
    own = experts // ranks
    return sum(len({e // own for e in rng.sample(range(experts), k)}) for _ in range(tokens)) / tokens


def main():
    print("| shape | ranks | ranks of a token | simulated | rows that leave | MiB | rows for the experts | "
          "H, GiB, with room for 1.2 | of the worst case | windows, GiB, with room for 1.2 | of the worst case |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, (tokens, dim, inter, experts, k) in SHAPES.items():
        for ranks in RANKS:
            if experts % ranks:
                continue
            peers = peers_of_token(experts, k, ranks)
            leave = tokens * peers * (ranks - 1) / ranks
            worst = ranks * tokens * k
            h = 2 * 2 * inter
            # x kept; dY, Y and their staging
            row = dim * 2 * 5 + k * 16
            windows = ranks * tokens * row
            packed = min(windows, 1.2 * tokens * peers * row)
            print(f"| {name} | {ranks} | {peers:.2f} | {simulated_peers(experts, k, ranks):.2f} | {leave:.0f} | "
                  f"{leave * dim * 2 / MIB:.0f} | {tokens * k} | {1.2 * tokens * k * h / GIB:.2f} | "
                  f"{worst * h / GIB:.2f} | {packed / GIB:.2f} | {windows / GIB:.2f} |")


if __name__ == "__main__":
    main()
