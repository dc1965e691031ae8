"""What it costs to hand a step to the daemon: the same step through it and in this process (daemon=None), turn by turn in one run.

    python hand_off.py [--device cpu] [--rule muon|adamw] [--steps 200] [--matrices 1] [--rows 64] [--cols 64] [--busy-ms 3]

On a GPU the time is what the training stream stands still for (CUDA events), with the GPU kept busy while the host hands the step over; the engine in this
process also makes the host wait for its verdict, so its time includes the launches behind it. On a CPU it is step()'s wall time.
With one 64 x 64 matrix the engine's own part is a few short launches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

import muond

WARM_UP = 20


def stepper(
    options: argparse.Namespace, daemon: str | None
) -> tuple[muond.Muon, Callable[[], Callable[[], float]]]:
    """An optimizer, and a function that makes one step; what that returns tells its milliseconds once the run is over."""
    torch.manual_seed(0)
    shape = (options.rows, options.cols)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, device=options.device))
        for _ in range(options.matrices)
    ]
    groups = [{"params": parameters, "use_muon": options.rule == "muon", "lr": 1e-3}]
    optimizer = muond.Muon(groups, daemon=daemon, verbose=False)
    cycles = int(options.busy_ms * 1.9e6)

    def on_gpu() -> Callable[[], float]:
        for p in parameters:
            p.grad = torch.randn_like(p)
        torch.cuda._sleep(cycles)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        optimizer.step()
        end.record()
        return lambda: begin.elapsed_time(end)

    def on_cpu() -> Callable[[], float]:
        for p in parameters:
            p.grad = torch.randn_like(p)
        begin = time.perf_counter()
        optimizer.step()
        milliseconds = 1e3 * (time.perf_counter() - begin)
        return lambda: milliseconds

    return optimizer, on_gpu if options.device == "cuda" else on_cpu


def row(name: str, times: list[float]) -> str:
    times = sorted(times)
    middle, low, high = (times[len(times) * k // 10] for k in (5, 1, 9))
    return f"{name:<28} {middle:9.3f} ms (10 % below {low:.3f}, 10 % above {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--rule", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--matrices", type=int, default=1)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--cols", type=int, default=64)
    parser.add_argument("--busy-ms", type=float, default=3.0)
    options = parser.parse_args()
    through, by_daemon = stepper(options, "auto")
    inside, in_process = stepper(options, None)
    pairs = [(by_daemon(), in_process()) for _ in range(options.steps + WARM_UP)]
    if options.device == "cuda":
        torch.cuda.synchronize()
    daemons, insides = ([take() for take in takes] for takes in zip(*pairs[WARM_UP:], strict=True))
    through.close()
    inside.close()
    print(
        f"{options.matrices} x [{options.rows}, {options.cols}], {options.rule}, {options.device}"
    )
    print(row("through the daemon", daemons))
    print(row("in this process", insides))
    print(row("hand-off, step by step", [a - b for a, b in zip(daemons, insides, strict=True)]))


if __name__ == "__main__":
    main()
