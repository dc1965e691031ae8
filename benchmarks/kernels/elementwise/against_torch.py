"""elementwise_bench beside torch.optim.AdamW(fused=True) on the same tensors, in one run on one GPU.

usage: against_torch.py path/to/elementwise_bench [millions of parameters]
"""

from __future__ import annotations

import re
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


def ours(program: str, millions: int) -> dict[str, tuple[float, float]]:
    """Runs and prints the benchmark: milliseconds and GB/s of each pass."""
    output = subprocess.run(
        [program, str(millions)], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    print(output, end="", flush=True)
    lines = re.findall(r"^(.*?) +([\d.]+) ms +(\d+) GB/s", output, re.MULTILINE)
    return {name: (float(ms), float(rate)) for name, ms, rate in lines}


def main() -> None:
    """Ours, torch's, ours again."""
    program, millions = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 512
    before = ours(program, millions)
    copy = before["copy"][1]
    # torch keeps the moments in the parameter's dtype, ours are fp32: times are beside each other for fp32, shares for both.
    for dtype, name in (
        (torch.float32, "adamw fp32"),
        (torch.bfloat16, "adamw bf16 parameters"),
    ):
        bytes_each = 7 * torch.empty((), dtype=dtype).element_size()
        milliseconds = fused_adamw(millions, dtype)
        rate = bytes_each * (millions << 20) / milliseconds / 1e6
        title = f"torch AdamW(fused) {str(dtype).removeprefix('torch.')}"
        print(
            f"{title:<34} {milliseconds:8.3f} ms {rate:8.0f} GB/s {100 * rate / copy:6.1f} %  (torch {torch.__version__}); "
            f"ours {before[name][0]:.3f} ms, {100 * before[name][1] / copy:.1f} %"
            + (
                f", {milliseconds / before[name][0]:.2f} times as fast"
                if dtype is torch.float32
                else ""
            ),
            flush=True,
        )
    ours(program, millions)


if __name__ == "__main__":
    main()
