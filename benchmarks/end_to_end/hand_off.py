"""What it costs to hand a step to the daemon: the time that the training stream stands still for a step without work.

    python hand_off.py [--steps 200] [--matrices 1] [--rows 64] [--cols 64] [--busy-ms 3]

The GPU is kept busy while the host hands the step over, so that only what the stream waits for counts (CUDA events on the training
stream). With one 64 x 64 matrix the engine's own part is a few short launches.
"""

from __future__ import annotations

import argparse
import statistics

import torch

import muond


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--matrices", type=int, default=1)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--cols", type=int, default=64)
    parser.add_argument("--busy-ms", type=float, default=3.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(options.rows, options.cols, device="cuda"))
        for _ in range(options.matrices)
    ]
    optimizer = muond.Muon(parameters, lr=1e-3, verbose=False)
    cycles = int(options.busy_ms * 1.9e6)
    times = []
    for _ in range(options.steps + 20):
        for p in parameters:
            p.grad = torch.randn_like(p)
        torch.cuda._sleep(cycles)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        optimizer.step()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    steps = sorted(begin.elapsed_time(end) for begin, end in times[20:])
    optimizer.close()
    print(
        f"{options.matrices} x [{options.rows}, {options.cols}]: the stream stands still for "
        f"{statistics.median(steps):.3f} ms (median of {len(steps)}; 10 % below {steps[len(steps) // 10]:.3f}, "
        f"10 % above {steps[9 * len(steps) // 10]:.3f})"
    )


if __name__ == "__main__":
    main()
