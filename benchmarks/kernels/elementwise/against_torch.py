"""elementwise_bench beside torch.optim.AdamW(fused=True) on the same tensors, in one run on one GPU.

usage: against_torch.py path/to/elementwise_bench [millions of parameters]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import torch

TENSORS, COLS = 32, 4096


def fused_adamw(millions: int, dtype: torch.dtype) -> float:
    """Median milliseconds of one step."""
    rows = (millions << 20) // COLS // TENSORS
    parameters = [
        torch.nn.Parameter(torch.randn(rows, COLS, device="cuda", dtype=dtype))
        for _ in range(TENSORS)
    ]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
    times = []
    for repeat in range(18):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        optimizer.step()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    """Ours, torch's, ours again."""
    program, millions = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 512
    subprocess.run([program, str(millions)], check=True)
    for dtype in (torch.float32, torch.bfloat16):
        # torch keeps the moments in the parameter's dtype.
        name = str(dtype).removeprefix("torch.")
        bytes_each = 7 * torch.empty((), dtype=dtype).element_size()
        milliseconds = fused_adamw(millions, dtype)
        rate = bytes_each * (millions << 20) / milliseconds / 1e6
        print(
            f"{'torch AdamW(fused) ' + name:<34} {milliseconds:8.3f} ms {rate:8.0f} GB/s  (torch {torch.__version__})"
        )
    subprocess.run([program, str(millions)], check=True)


if __name__ == "__main__":
    main()
