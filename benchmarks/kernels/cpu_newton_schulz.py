"""CPU Newton-Schulz beside torch's, over GPT-2 124M's matrices, in one run.

    cmake --preset release && ninja -C build/release cpu_newton_schulz_worker
    python benchmarks/kernels/cpu_newton_schulz.py --worker build/release/benchmarks/kernels/cpu_newton_schulz_worker

Both sides get the same number of cores (--cores): torch that many threads on one matrix, muond that many devices with a
matrix each. Runs alternate, so that a busy machine is as busy for both. Peers, with the jordan table and 5 steps:

    torch bf16   torch.optim.Muon's own function: bf16 products, which most CPUs have no instructions for
    torch fp32   the same three products a step in fp32: the honest peer

A row gives seconds per matrix: the median of the wall times, and beside it the median of the CPU seconds of the whole
process, which tells the work when the machine is shared. "floor" is the time of muond's FLOP at the rate of torch's own
fp32 X X^T in the same run.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.optim._muon import _zeropower_via_newtonschulz as torch_newton_schulz

JORDAN = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
# (rows, cols, how many in the model)
GPT2_124M = [(768, 768, 12), (2304, 768, 12), (3072, 768, 12), (768, 3072, 12)]
GPT2_124M_SPLIT = [(768, 768, 48), (3072, 768, 12), (768, 3072, 12)]


def fp32_newton_schulz(x: torch.Tensor) -> torch.Tensor:
    """torch's algorithm with fp32 products. x: [rows, cols]."""
    a, b, c = JORDAN
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPS)
    for _ in range(5):
        gram = x @ x.T
        update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, update, x, beta=a)
    return x.T if tall else x


@dataclass
class Times:
    """Seconds per matrix."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)

    @property
    def median(self) -> tuple[float, float]:
        return statistics.median(self.wall), statistics.median(self.cpu)


def cpu_seconds() -> float:
    """CPU seconds of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - wall, cpu_seconds() - cpu


class Worker:
    """muond's side: a process that runs one matrix on each of its devices when told a shape."""

    def __init__(self, path: str, cores: int) -> None:
        self.cores = cores
        self.process = subprocess.Popen(
            [path, str(cores)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, rows: int, cols: int, algorithm: str) -> tuple[float, float]:
        """Wall and CPU seconds per matrix, one matrix on each device at once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{rows} {cols} jordan {algorithm}\n")
        self.process.stdin.flush()
        wall, cpu = (float(word) for word in self.process.stdout.readline().split())
        return wall / self.cores, cpu / self.cores

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def muond_flop(rows: int, cols: int) -> float:
    """FLOP of the algorithm that muond ships for this shape, 5 steps."""
    s, long_side = min(rows, cols), max(rows, cols)
    ratio = long_side / s
    return s**3 * (15 * ratio + 5 if ratio < 1.25 else 3 * ratio + 17)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--worker", required=True, help="path of cpu_newton_schulz_worker")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--bf16-rounds", type=int, default=1, help="torch's bf16 path may take minutes"
    )
    parser.add_argument("--split", action="store_true", help="the QKV matrix as three 768 x 768")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.cores)
    worker = Worker(arguments.worker, arguments.cores)
    shapes = GPT2_124M_SPLIT if arguments.split else GPT2_124M
    totals = {"muond": [0.0, 0.0], "torch fp32": [0.0, 0.0], "torch bf16": [0.0, 0.0]}
    print(
        f"torch {torch.__version__}, {arguments.cores} cores each, {arguments.rounds} rounds; wall (CPU) ms per matrix"
    )
    print(
        f"{'shape':>12} {'count':>5} {'muond':>16} {'torch fp32':>16} {'torch bf16':>18} {'floor':>7}"
        f" {'fp32/muond':>16} {'bf16/muond':>10}"
    )
    for rows, cols, count in shapes:
        x = torch.randn(rows, cols)
        wide = x if rows <= cols else x.T.contiguous()
        ours, fp32, bf16, gram = Times(), Times(), Times(), Times()
        fp32_newton_schulz(x)
        for round_number in range(arguments.rounds):
            ours.add(*worker.run(rows, cols, "chosen"))
            fp32.add(*timed(partial(fp32_newton_schulz, x)))
            gram.add(*timed(partial(torch.matmul, wide, wide.T)))
            if round_number < arguments.bf16_rounds:
                bf16.add(*timed(partial(torch_newton_schulz, x, JORDAN, 5, EPS)))
        rate = 2.0 * wide.size(0) ** 2 * wide.size(1) / gram.median[0]
        floor = muond_flop(rows, cols) / rate
        medians = {
            "muond": ours.median,
            "torch fp32": fp32.median,
            "torch bf16": bf16.median,
        }
        for name, (wall, cpu) in medians.items():
            totals[name][0] += count * wall
            totals[name][1] += count * cpu
        print_row(f"{rows}x{cols}", count, medians, floor)
    print_row(
        "model",
        sum(count for *_, count in shapes),
        {k: (v[0], v[1]) for k, v in totals.items()},
        None,
    )
    worker.close()


def print_row(
    name: str, count: int, medians: dict[str, tuple[float, float]], floor: float | None
) -> None:
    """One line: medians in ms, and how many times as long the peers take."""
    cells = [f"{1e3 * wall:.1f} ({1e3 * cpu:.1f})" for wall, cpu in medians.values()]
    ours, fp32, bf16 = (medians[key] for key in ("muond", "torch fp32", "torch bf16"))
    ratio = f"{fp32[0] / ours[0]:.2f} ({fp32[1] / ours[1]:.2f})"
    floor_text = f"{1e3 * floor:.1f}" if floor is not None else ""
    print(
        f"{name:>12} {count:>5} {cells[0]:>16} {cells[1]:>16} {cells[2]:>18} {floor_text:>7} {ratio:>16}"
        f" {bf16[0] / ours[0]:>10.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
