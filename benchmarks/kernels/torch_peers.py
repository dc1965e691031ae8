"""Newton-Schulz of whole models by PyTorch, beside newton_schulz_bench on the same GPU.

    python torch_peers.py [--divide N] [--compiled] [--json FILE] LIST.csv ...

Per shape, back to back on a hot chip, times the count of the list (milliseconds of the whole list):
  eager     torch.optim.Muon's own routine, one matrix at a time, bf16
  batched   the same polynomial over stacks of one shape (at most 1 GiB of matrices), bf16, torch.baddbmm
  gram      the Gram form with one restart over the same stacks, fp16, torch.baddbmm: the best of what cuBLAS allows
  compiled  torch.compile of the faster of these two, when asked for (half a minute of compilation)
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from collections.abc import Callable

import torch

JORDAN = (3.4445, -4.7750, 2.0315)
STEPS = 5
STACK_BYTES = 2**30
COLUMNS = ("eager", "batched", "gram", "compiled")


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
    """(name, rows, cols, count) of a list: a header, "#" comments; name and count may be left out."""
    shapes: list[tuple[str, int, int, int]] = []
    lines = [line.strip() for line in pathlib.Path(path).read_text().splitlines()]
    for i, line in enumerate(line for line in lines if line and not line.startswith("#")):
        fields = [field.strip() for field in line.split(",")]
        named = not fields[0].isdigit()
        numbers = fields[1:] if named else fields
        if not all(field.isdigit() for field in numbers) or len(numbers) not in (2, 3):
            if i == 0:
                continue  # the header
            raise ValueError(f"{path}: '{line}' is no 'name,rows,cols,count'")
        rows, cols = int(numbers[0]), int(numbers[1])
        name = fields[0] if named else f"{rows}x{cols}"
        shapes.append((name, rows, cols, int(numbers[2]) if len(numbers) == 3 else 1))
    return shapes


@functools.cache
def each(rows: int, cols: int, stack: int, budget_ms: float, compiled: bool) -> dict[str, float]:
    """Milliseconds of one matrix by every column; the stack form counts a matrix's share of its stack."""
    x = torch.randn(stack, rows, cols, device="cuda")
    times = {
        "eager": milliseconds(functools.partial(eager, x), budget_ms),
        "batched": milliseconds(functools.partial(batched, x), budget_ms) / stack,
        "gram": milliseconds(functools.partial(gram, x), budget_ms) / stack,
    }
    if compiled:
        function = torch.compile(
            gram if times["gram"] < times["batched"] else batched, dynamic=False
        )
        times["compiled"] = milliseconds(functools.partial(function, x), budget_ms) / stack
    return times


def measure(
    path: str, divide: int = 1, budget_ms: float = 60, compiled: bool = False
) -> dict[str, float]:
    """Milliseconds of the whole list by every column. The Gram column takes the plain form where that is faster."""
    total = dict.fromkeys(COLUMNS[: 4 if compiled else 3], 0.0)
    for _, rows, cols, count in read(path):
        count = max(1, count // divide)
        stack = min(count, max(1, STACK_BYTES // (rows * cols * 4)))
        times = dict(each(rows, cols, stack, budget_ms, compiled))
        times["gram"] = min(times["gram"], times["batched"])
        for name in total:
            total[name] += times[name] * count
    torch.cuda.empty_cache()
    return total


def main() -> None:
    """Prints one line a list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lists", nargs="+")
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--budget-ms", type=float, default=60)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    results = {}
    for path in options.lists:
        total = measure(path, options.divide, options.budget_ms, options.compiled)
        results[pathlib.Path(path).name] = total
        print(
            f"{pathlib.Path(path).name:24}",
            *(f"{name} {ms:10.1f} ms" for name, ms in total.items()),
            flush=True,
        )
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
