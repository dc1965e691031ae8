"""The whole Muon step of models, gradient in, parameter out: muond.ops.muon_step beside torch's optimizers, in one run.

    python whole_step.py [--build build/cuda] [--dtype float32] [LIST.csv[:DIVIDE[:NAME,NAME...]] ...]

A list is one of benchmarks/data (name,rows,cols,count); DIVIDE takes one matrix in so many of each line, NAMEs only
those lines. Without lists: the four that the figures of benchmarks/README.md are for. Random data, the same
parameters and gradients for everybody, medians on a hot chip (each is run for --seconds before and while it is timed).

  ms        one step of muond.ops.muon_step over the whole list
  torch     torch.optim.Muon's step on the same parameters, and how many times ours it takes
  AdamW     torch.optim.AdamW(fused=True), likewise
  host us   until muon_step returns, device idle before: what the training thread pays
  floor     products at Ps (fp16 8192^3 of this run), symmetric ones as triangles, plus the bytes of the passes at the
            copy rate of this run; share = floor / ms
  differs   how far our first step lands from torch's, relative to how far torch's moves (torch iterates in bfloat16)
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "benchmarks" / "data"
DEFAULT = [
    f"{DATA}/llama-3.1-8b.csv:4",
    f"{DATA}/qwen2.5-1.5b.csv",
    f"{DATA}/wallx.csv",
    f"{DATA}/qwen3-30b-a3b.csv:8:gate_proj,up_proj,down_proj",
]
HYPER = {"lr": 1e-4, "weight_decay": 0.1}
Shape = tuple[int, int]


def load_ops(build: Path) -> ModuleType:
    os.environ.setdefault(
        "MUOND_KERNELS_LIBRARY", str(build / "kernels" / "capi" / "libmuond_kernels.so")
    )
    spec = importlib.util.spec_from_file_location(
        "muond_ops", ROOT / "client" / "python" / "muond" / "ops.py"
    )
    ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ops)
    return ops


def read(argument: str) -> tuple[str, list[Shape]]:
    path, *rest = argument.split(":")
    divide = int(rest[0]) if rest and rest[0] else 1
    names = set(rest[1].split(",")) if len(rest) > 1 else None
    shapes: list[Shape] = []
    with open(path) as file:
        for row in csv.DictReader(line for line in file if line.strip() and line[0] != "#"):
            if names is None or row["name"].strip() in names:
                count = max(1, int(row.get("count") or 1) // divide)
                shapes += [(int(row["rows"]), int(row["cols"]))] * count
    return Path(path).stem + (f" /{divide}" if divide > 1 else ""), shapes


def timed(run: Callable[[], object], seconds: float) -> float:
    """Median milliseconds of one run, on a chip that has run it for `seconds` before."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def once() -> float:
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    once()
    for budget in (seconds, seconds):
        samples: list[float] = []
        while len(samples) < 3 or (sum(samples) < 1e3 * budget and len(samples) < 200):
            samples.append(once())
    return statistics.median(samples)


def host_microseconds(run: Callable[[], object]) -> float:
    samples = []
    for _ in range(30):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        samples.append(1e6 * (time.perf_counter() - begin))
        if sum(samples) > 3e6:
            break
    torch.cuda.synchronize()
    return statistics.median(samples)


def ceilings() -> tuple[float, float]:
    """FLOP/s of fp16 8192^3 back to back, bytes/s of a copy (read + written)."""
    a, b = (torch.randn(8192, 8192, device="cuda").half() for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * 8192**3 / (timed(lambda: torch.mm(a, b, out=out), 0.4) / 1e3)
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / (timed(lambda: target.copy_(source), 0.05) / 1e3)
    return flops, rate


def newton_schulz_flop(rows: int, cols: int) -> float:
    """Of the better algorithm, five steps of "jordan": standard, or the Gram form with one restart."""
    s, length = min(rows, cols), max(rows, cols)
    a = length / s
    return s**3 * min(15 * a + 5, 6 * a + 14 if a >= 1.25 else 15 * a + 5)


def make(shapes: list[Shape], dtype: torch.dtype) -> list[torch.Tensor]:
    """Separate matrices, each at an address of its own, out of one allocation."""
    starts, total = [], 0
    for rows, cols in shapes:
        starts.append(total)
        total += (rows * cols + 127) // 128 * 128
    memory = torch.randn(total, device="cuda").mul_(0.02).to(dtype)
    return [
        memory[at : at + rows * cols].view(rows, cols)
        for at, (rows, cols) in zip(starts, shapes, strict=True)
    ]


def optimizer_of(kind: str, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if kind == "muon":
        return torch.optim.Muon(parameters, **HYPER)
    return torch.optim.AdamW(parameters, fused=True, **HYPER)


def peer(kind: str, parameters: list[torch.Tensor], seconds: float) -> float:
    optimizer = optimizer_of(kind, parameters)
    milliseconds = timed(optimizer.step, seconds)
    optimizer.state.clear()
    return milliseconds


def difference(
    ops: ModuleType, parameters: list[torch.Tensor], momenta: list[torch.Tensor]
) -> float:
    """Of one step, on at most eight matrices of different shapes."""
    picked = list({tuple(p.shape): i for i, p in enumerate(parameters)}.values())[:8]
    before = [parameters[i].detach().clone() for i in picked]
    gradients = [parameters[i].grad for i in picked]
    theirs = [torch.nn.Parameter(b.clone()) for b in before]
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = g
    optimizer_of("muon", theirs).step()
    ours = [b.clone() for b in before]
    ops.muon_step(ours, gradients, [torch.zeros_like(momenta[i]) for i in picked], **HYPER)
    return max(
        float((a.double() - b.detach().double()).norm() / (b.detach().double() - c.double()).norm())
        for a, b, c in zip(ours, theirs, before, strict=True)
    )


def host_of_224(ops: ModuleType, dtype: torch.dtype) -> tuple[float, float]:
    """muon_step, and a plan's step on its parameters' gradients.

    Llama-3.1-8B's 224 matrices, a sixteenth the size in each direction, so that the device does not hold the host up.
    """
    _, shapes = read(f"{DATA}/llama-3.1-8b.csv")
    shapes = [(rows // 16, cols // 16) for rows, cols in shapes]
    parameters = [torch.nn.Parameter(p) for p in make(shapes, dtype)]
    momenta = make(shapes, torch.float32)
    for p, g in zip(parameters, make(shapes, dtype), strict=True):
        p.grad = g
    gradients = [p.grad for p in parameters]
    call = host_microseconds(lambda: ops.muon_step(parameters, gradients, momenta, **HYPER))
    ops.release()
    plan = ops.MuonPlan(parameters, gradients, momenta)
    return call, host_microseconds(lambda: plan.step(**HYPER))


def run_list(
    ops: ModuleType,
    argument: str,
    dtype: torch.dtype,
    options: argparse.Namespace,
    flops: float,
    rate: float,
) -> dict[str, object]:
    name, shapes = read(argument)
    parameters = [torch.nn.Parameter(p) for p in make(shapes, dtype)]
    gradients, momenta = make(shapes, dtype), make(shapes, torch.float32)
    for p, g, m in zip(parameters, gradients, momenta, strict=True):
        p.grad = g
        m.zero_()
    differs = difference(ops, parameters, momenta)
    ops.release()
    begin = time.perf_counter()
    limit = options.workspace_mib << 20

    def step() -> None:
        ops.muon_step(parameters, gradients, momenta, workspace_limit=limit, **HYPER)

    step()
    torch.cuda.synchronize()
    prepare = time.perf_counter() - begin
    workspace = max(plan.workspace_bytes for plan, _, _ in ops._plans.values())
    ours = timed(step, options.seconds)
    host = host_microseconds(step)
    ops.release()
    elements = sum(rows * cols for rows, cols in shapes)
    # Gradient, momentum in and out, direction; direction, parameter in and out.
    size = torch.empty((), dtype=dtype).element_size()
    passes = elements * (size + 8 + 2 + 2 + 2 * size) / rate
    floor = 1e3 * (sum(newton_schulz_flop(*shape) for shape in shapes) / flops + passes)
    result: dict[str, object] = {
        "list": name, "matrices": len(shapes), "parameters": elements, "ms": ours, "host_us": host,
        "prepare_s": prepare, "workspace_bytes": workspace, "floor_ms": floor, "passes_floor_ms": 1e3 * passes,
        "differs": differs,
    }  # fmt: skip
    for kind in () if options.no_peers else ("muon", "adamw"):
        result[f"torch_{kind}_ms"] = peer(kind, parameters, options.seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lists", nargs="*", default=DEFAULT)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--workspace-mib", type=int, default=2048)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ops, dtype = load_ops(options.build), getattr(torch, options.dtype)
    flops, rate = ceilings()
    torch.cuda.empty_cache()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, parameters and gradients {options.dtype}; "
        f"Ps {flops / 1e12:.0f} TFLOP/s, copy {rate / 1e9:.0f} GB/s"
    )
    call, planned = host_of_224(ops, dtype)
    print(
        f"host time to enqueue a step of 224 matrices: muon_step {call:.0f} us, MuonPlan.step {planned:.0f} us"
    )
    print(
        f"{'list':18} {'matrices':>8} {'M param':>8} {'ms':>8} {'torch ms':>9} {'ratio':>6} {'AdamW ms':>9} {'ratio':>6} "
        f"{'host us':>8} {'work MiB':>8} {'floor ms':>9} {'share':>6} {'passes':>7} {'differs':>8}"
    )
    results = []
    for argument in options.lists:
        try:
            r = run_list(ops, argument, dtype, options, flops, rate)
        except torch.OutOfMemoryError as error:
            print(
                f"{argument}: does not fit this device ({str(error).splitlines()[0]}); LIST.csv:DIVIDE takes a part of it"
            )
            ops.release()
            torch.cuda.empty_cache()
            continue
        torch.cuda.empty_cache()
        results.append(r)
        muon, adamw = r.get("torch_muon_ms", float("nan")), r.get("torch_adamw_ms", float("nan"))
        print(
            f"{r['list']:18} {r['matrices']:8} {r['parameters'] / 1e6:8.0f} {r['ms']:8.2f} {muon:9.2f} {muon / r['ms']:6.2f} "
            f"{adamw:9.2f} {r['ms'] / adamw:6.2f} {r['host_us']:8.0f} {r['workspace_bytes'] / 2**20:8.0f} "
            f"{r['floor_ms']:9.2f} {100 * r['floor_ms'] / r['ms']:5.1f}% {r['passes_floor_ms']:7.2f} {r['differs']:8.4f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"ps": flops, "copy": rate, "results": results}))


if __name__ == "__main__":
    main()
