"""Newton-Schulz of whole models by PyTorch, beside newton_schulz_bench on the same GPU.

    python torch_peers.py [--divide N] [--json FILE] LIST.csv ...

Per shape, back to back on a hot chip, times the count of the list (milliseconds of the whole list):
  eager    torch.optim.Muon's own routine, one matrix at a time, bf16
  batched  the same polynomial over stacks of one shape (at most 1 GiB of matrices), bf16, torch.baddbmm
  gram     the Gram form with one restart over the same stacks, fp16, torch.baddbmm: the best of what cuBLAS allows
"""

import argparse
import csv
import functools
import json
import pathlib
from collections.abc import Callable

import torch

JORDAN = (3.4445, -4.7750, 2.0315)
STEPS = 5


def eager(x: torch.Tensor) -> torch.Tensor:
    """The first matrix of x [n, rows, cols] by torch.optim.Muon's own routine."""
    from torch.optim._muon import _zeropower_via_newtonschulz

    return _zeropower_via_newtonschulz(x[0], JORDAN, STEPS, 1e-7)


def batched(x: torch.Tensor) -> torch.Tensor:
    """The polynomial as written, bf16, over the stack x [n, rows, cols]."""
    a, b, c = JORDAN
    x = x.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7).bfloat16()
    for _ in range(STEPS):
        gram = x @ x.mT
        u = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, u, x, beta=a)
    return x.mT if tall else x


def gram(x: torch.Tensor) -> torch.Tensor:
    """The Gram form with one restart, fp16, over the stack x [n, rows, cols]."""
    a, b, c = JORDAN
    x = x.half()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.float().norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7).half()
    r, q = x @ x.mT, None
    for step in range(STEPS):
        if step == 2:
            x = q @ x
            r, q = x @ x.mT, None
        z = torch.baddbmm(r, r, r, beta=b, alpha=c)
        if step not in (1, STEPS - 1):
            s = torch.baddbmm(r, r, z, beta=a)
            r = torch.baddbmm(s, z, s, beta=a)
        if q is None:
            q = z.clone()
            q.diagonal(dim1=-2, dim2=-1).add_(a)
        else:
            q = torch.baddbmm(q, q, z, beta=a)
    x = q @ x
    return x.mT if tall else x


def milliseconds(run: Callable[[], object], budget_ms: float) -> float:
    """Mean of back-to-back calls, the first half of the budget being warm-up."""

    def timed(calls: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    run()
    calls = max(1, min(2000, int(budget_ms / 2 / max(timed(1), 1e-3))))
    timed(calls)
    return timed(calls) / calls


def read(path: str) -> list[tuple[str, int, int, int]]:
    """(name, rows, cols, count) of a list."""
    with open(path) as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [(row["name"], int(row["rows"]), int(row["cols"]), int(row["count"])) for row in rows]


def main() -> None:
    """Prints one line a list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="+")
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument("--json")
    parser.add_argument("--budget-ms", type=float, default=60)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    print(f"{'list':24} {'eager ms':>10} {'batched ms':>10} {'gram ms':>10}")
    results, known = {}, {}
    for path in options.lists:
        total = {"eager": 0.0, "batched": 0.0, "gram": 0.0}
        for _, rows, cols, count in read(path):
            count = max(1, count // options.divide)
            stack = min(count, max(1, 2**30 // (rows * cols * 4)))
            if (rows, cols, stack) not in known:
                x = torch.randn(stack, rows, cols, device="cuda")
                known[rows, cols, stack] = {
                    "eager": milliseconds(functools.partial(eager, x), options.budget_ms),
                    "batched": milliseconds(functools.partial(batched, x), options.budget_ms) / stack,
                    "gram": milliseconds(functools.partial(gram, x), options.budget_ms) / stack,
                }
                del x
            each = known[rows, cols, stack]
            for name in ("eager", "batched"):
                total[name] += each[name] * count
            aspect = max(rows, cols) / min(rows, cols)
            total["gram"] += (each["gram"] if aspect >= 1.5 else min(each["gram"], each["batched"])) * count
        results[pathlib.Path(path).name] = total
        print(f"{pathlib.Path(path).name:24} {total['eager']:10.1f} {total['batched']:10.1f} {total['gram']:10.1f}", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
