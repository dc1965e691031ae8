"""One rank of one training run."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from data import Batches, corpus
from model import GPT, Shape
from torch.nn.parallel import DistributedDataParallel

KINDS = ("muond", "adamw", "torch-muon")


@dataclass
class Options:
    """What all three runs share."""

    steps: int = 150
    seconds: float = 55.0  # a run that has spent them ends early, and the table says after how many steps
    batch: int = 8
    lr: float = 4e-3
    weight_decay: float = 0.1
    warmup: int = 10
    seed: int = 1
    corpus_bytes: int = 8_000_000
    ranks: int = 2
    folder: str = ""
    shape: Shape = field(default_factory=Shape)


@dataclass
class Run:
    """What one run tells: losses in nats per byte, times in seconds per step."""

    kind: str
    losses: list[float] = field(default_factory=list)
    forward_backward: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)
    held_out: float = 0.0
    replicas_equal: bool = False
    phases: dict[str, float] = field(default_factory=dict)


class Optimizers:
    """The optimizers of a run behind one step(); ``close`` ends what needs ending."""

    def __init__(self, kind: str, model: torch.nn.Module, options: Options) -> None:
        self.endpoint = ""
        common = {"lr": options.lr, "weight_decay": options.weight_decay}
        if kind == "muond":
            import muond

            self.list = [muond.Muon(model, adjust_lr_fn="match_rms_adamw", **common)]
        elif kind == "adamw":
            self.list = [torch.optim.AdamW(model.parameters(), **common)]
        else:
            matrices, rest = [], []
            for name, parameter in model.named_parameters():
                inner = parameter.ndim == 2 and "embedding" not in name and "lm_head" not in name
                (matrices if inner else rest).append(parameter)
            self.list = [
                torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common),
                torch.optim.AdamW(rest, **common),
            ]
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(options)) for optimizer in self.list
        ]

    def step(self) -> None:
        for optimizer in self.list:
            optimizer.step()

    def next(self) -> None:
        for optimizer, schedule in zip(self.list, self.schedules, strict=True):
            optimizer.zero_grad()
            schedule.step()

    def phases(self) -> dict[str, float]:
        """The daemon's phases in median seconds per step; nothing where there is no daemon."""
        endpoint = getattr(self.list[0], "endpoint", None)
        if not endpoint:
            return {}
        command = ["muonctl", "--endpoint", endpoint, "status", "-o", "json"]
        status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        return {p["phase"]: p["seconds_median"] for p in status["jobs"][0].get("phases", [])}

    def close(self) -> None:
        for optimizer in self.list:
            if hasattr(optimizer, "close"):
                optimizer.close()


def _schedule(options: Options) -> Callable[[int], float]:
    """Linear warm-up, then linearly down to a tenth."""
    left = max(1, options.steps - options.warmup)
    return lambda step: min((step + 1) / options.warmup, 1 - 0.9 * max(0, step - options.warmup) / left)


def train(rank: int, kind: str, options: Options) -> None:
    """Trains, and on rank 0 leaves the Run as JSON in the folder."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.ranks))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{options.folder}/{kind}.rendezvous", rank=rank, world_size=options.ranks
    )
    torch.manual_seed(options.seed)
    model = GPT(options.shape)
    wrapped = DistributedDataParallel(model)
    optimizers = Optimizers(kind, wrapped, options)
    batches = Batches(corpus(options.corpus_bytes), options.shape.context, options.batch, options.seed)
    run = Run(kind)
    began = time.perf_counter()
    for step in range(options.steps):
        tokens, targets = batches.draw(step, rank)
        begin = time.perf_counter()
        loss = wrapped(tokens, targets)
        loss.backward()
        middle = time.perf_counter()
        optimizers.step()
        end = time.perf_counter()
        optimizers.next()
        spent = end - began > options.seconds
        shared = torch.tensor([loss.item(), float(spent)])
        dist.all_reduce(shared)
        run.losses.append(shared[0].item() / options.ranks)
        run.forward_backward.append(middle - begin)
        run.optimizer.append(end - middle)
        if rank == 0 and ((step + 1) % max(1, options.steps // 8) == 0 or step == 0):
            print(f"  {kind:<10} step {step + 1:>4} of {options.steps}   loss {run.losses[-1]:6.3f}   "
                  f"{1e3 * (end - begin):6.0f} ms", flush=True)
        if shared[1].item() > 0:
            if rank == 0:
                print(f"  {kind:<10} stops after {step + 1} steps: {options.seconds:.0f} s are spent", flush=True)
            break
    run.held_out = _held_out(model, batches)
    run.replicas_equal = _replicas_equal(model)
    if rank == 0:
        run.phases = optimizers.phases()
        Path(options.folder, f"{kind}.json").write_text(json.dumps(asdict(run)), encoding="utf-8")
    dist.barrier()
    optimizers.close()
    dist.destroy_process_group()


@torch.no_grad()
def _held_out(model: GPT, batches: Batches) -> float:
    losses = [model(*batches.draw(i, 0, held_out=True)) for i in range(8)]
    return torch.stack(losses).mean().item()


@torch.no_grad()
def _replicas_equal(model: GPT) -> bool:
    """Whether every rank holds the same bits."""
    mine = torch.cat([parameter.flatten() for parameter in model.parameters()])
    first = mine.clone()
    dist.broadcast(first, 0)
    equal = torch.tensor([torch.equal(mine, first)], dtype=torch.int32)
    dist.all_reduce(equal, dist.ReduceOp.MIN)
    return bool(equal.item())
