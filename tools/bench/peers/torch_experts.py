"""The routed experts in plain PyTorch, timed beside ours:

    moeref_cuda_bench --beside 'python3 tools/bench/peers/torch_experts.py' qwen3_30b

Rows are sorted by expert and multiplied by torch's grouped product, as the documented system's own grouped
experts do it: bfloat16, swiglu, routing weights before the down projection. A peer of your own is a copy of this
file with another `experts`.
"""

import json
import sys

import torch

grouped_mm = getattr(torch.nn.functional, "grouped_mm", None) or torch._grouped_mm


def experts(x, ids, weights, gate_and_up, down):
    """x [T, D], ids and weights [T, k], gate_and_up [E, D, 2 I], down [E, I, D] -> [T, D]."""
    order = ids.flatten().argsort(stable=True)
    token = order // ids.shape[1]
    offsets = torch.bincount(ids.flatten(), minlength=down.shape[0]).cumsum(0).to(torch.int32)
    gate, up = grouped_mm(x[token], gate_and_up, offs=offsets).chunk(2, dim=-1)
    a = torch.nn.functional.silu(gate) * up * weights.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, token, grouped_mm(a, down, offs=offsets))


class Layer:
    def __init__(self, tokens, dim, inter_dim, experts, slots, dtype, **_):
        if dtype != "bfloat16":
            raise ValueError(f"dtype is {dtype}: want bfloat16")
        torch.manual_seed(7)
        normal = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
        leaf = lambda scale, *shape: (normal(*shape) * scale).requires_grad_()
        self.x = [leaf(1, tokens, dim) for _ in range(2)]
        self.dy = [normal(tokens, dim) for _ in range(2)]
        self.ids = torch.rand(tokens, experts, device="cuda").topk(slots).indices
        self.weights = torch.full((tokens, slots), 1 / slots, device="cuda").requires_grad_()
        self.gate_and_up, self.down = leaf(0.02, experts, dim, 2 * inter_dim), leaf(0.02, experts, inter_dim, dim)
        self.calls = 0

    def run(self, backward):
        i, self.calls = self.calls % 2, self.calls + 1
        leaves = [self.x[i], self.weights, self.gate_and_up, self.down]
        with torch.set_grad_enabled(backward):
            y = experts(self.x[i], self.ids, self.weights, self.gate_and_up, self.down)
        if backward:
            torch.autograd.grad(y, leaves, self.dy[i])

    def timed(self, backward):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.run(backward)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def main():
    layer = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "run" in request:
                answer = {"ms": layer.timed(request["run"] != "forward")}
            else:
                layer = None  # before the next one needs its memory
                layer = Layer(**request)
                for backward in (False, True, True):
                    layer.run(backward)
                torch.cuda.synchronize()
                answer = {"ready": True}
        except Exception as error:  # whatever it was, the bench shall say it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
