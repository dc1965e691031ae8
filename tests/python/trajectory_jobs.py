"""Training jobs of every shape and setting, for long trajectories: plain, as ranks of DDP, broken off and resumed elsewhere, with torch's optimizers.

Gradients are forced: the loss is the sum of parameter times a tensor that depends on the step alone, so backward (and DDP's average of 1, 2 or
4 equal gradients, which is exact) gives that tensor to the bit, however the job is run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from exact import Twins
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

import muond

Named = dict[str, nn.Parameter]


class Forced(nn.Module):
    """``inner`` under a loss whose gradients are given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, wanted: dict[str, torch.Tensor]) -> torch.Tensor:
        named = dict(self.inner.named_parameters())
        return sum((named[name] * g.to(named[name].dtype)).sum() for name, g in wanted.items())


@dataclass
class Job:
    """What a user's script does, apart from how it is launched."""

    make: Callable[[], nn.Module]
    groups: Callable[[Named], list[dict[str, Any]]]  # with use_muon
    settings: dict[str, Any] = field(default_factory=dict)
    by_module: dict[str, Any] | None = None  # given the module and these, instead of groups
    late: dict[int, Callable[[Named], dict[str, Any]]] = field(default_factory=dict)  # new groups
    unfrozen: dict[str, int] = field(default_factory=dict)  # from which step on
    absent: Callable[[str, int], bool] = lambda name, step: False
    schedule: Callable[[Any], Any] | None = None
    clip: float | None = None
    clip_by_torch: bool = False

    def gradients(self, named: Named, step: int) -> dict[str, torch.Tensor]:
        wanted = {}
        for name, p in named.items():
            if not p.requires_grad or self.absent(name, step):
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + step)
            g = torch.randn(p.shape, generator=generator)
            if p.ndim == 2 and step % 4 == 1:  # of low rank, as gradients often are
                g = torch.outer(g[:, 0], g[0]) + 1e-3 * g
            if p.ndim >= 2 and step % 11 == 5:  # as of an embedding: most rows are zero
                g[1:] = 0
            wanted[name] = g * 10.0 ** (step % 5 - 3)
        return wanted


class Run:
    """A job under way. ``family``: "muond", "torch", "exact"; ``ddp``: gradients go through DDP's reduction."""

    def __init__(self, job: Job, family: str, ddp: bool, first: int, **options: Any) -> None:
        torch.manual_seed(77)
        self.job, self.family, self.ddp = job, family, ddp
        self.inner = job.make()
        if family == "exact":
            self.inner.double()
        self.named = dict(self.inner.named_parameters())
        for name, step in job.unfrozen.items():
            self.named[name].requires_grad_(first > step)
        self.model = self._wrap()
        groups = job.groups(self.named)
        if family != "muond":
            self.opt = Twins(groups, job.settings, family == "exact")
        elif job.by_module is not None:
            options = {"verbose": False, **job.settings, **job.by_module, **options}
            self.opt = muond.Muon(self.model, **options)
        else:
            options = {**({"data_parallel": "reduced"} if ddp else {}), **options}
            self.opt = muond.Muon(groups, **job.settings, **options)
        if family == "muond" and not job.clip_by_torch:
            self.opt.clip_norm = job.clip
        each = [self.opt] if family == "muond" else self.opt.all
        for step, group in job.late.items():
            if first > step:
                self.opt.add_param_group(group(self.named))
        self.schedulers = [job.schedule(opt) for opt in each] if job.schedule else []

    def _wrap(self) -> nn.Module:
        forced = Forced(self.inner)
        return DistributedDataParallel(forced, find_unused_parameters=True) if self.ddp else forced

    def steps(self, first: int, last: int) -> None:
        """Steps ``first`` to ``last``, counted from 1."""
        for step in range(first, last + 1):
            changed = [name for name, when in self.job.unfrozen.items() if when == step]
            for name in changed:
                self.named[name].requires_grad_(True)
            if changed:
                self.model = self._wrap()
            if step in self.job.late:
                self.opt.add_param_group(self.job.late[step](self.named))
            self.opt.step(lambda step=step: self._closure(step))
            for scheduler in self.schedulers:
                scheduler.step()

    def _closure(self, step: int) -> float:
        for p in self.named.values():
            p.grad = None
        loss = self.model(self.job.gradients(self.named, step))
        loss.backward()
        if self.job.clip is not None and (self.family != "muond" or self.job.clip_by_torch):
            nn.utils.clip_grad_norm_(list(self.named.values()), self.job.clip, foreach=False)
        return loss.item()

    def saved(self) -> dict[str, Any]:
        return {
            "model": {k: v.clone() for k, v in self.inner.state_dict().items()},
            "optimizer": self.opt.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.inner.load_state_dict(saved["model"])
        self.opt.load_state_dict(saved["optimizer"])
        for scheduler, state in zip(self.schedulers, saved["schedulers"], strict=True):
            scheduler.load_state_dict(state)


class Shapes(nn.Module):
    """Bare parameters of the given shapes."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        for i, shape in enumerate(shapes):
            value = torch.randn(shape) * 0.3
            self.register_parameter(f"p{i}_" + "x".join(map(str, shape)), nn.Parameter(value))


class Network(nn.Module):
    """Embedding tied to the head, norms, biases, convolutions, experts, a frozen layer, one that thaws, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(29, 12)
        self.up = nn.Linear(12, 37)
        self.norm = nn.LayerNorm(37)
        self.down = nn.Linear(37, 12, bias=False)
        self.conv1 = nn.Conv1d(12, 10, 3)
        self.conv2 = nn.Conv2d(5, 8, 3)
        self.experts = nn.Parameter(torch.randn(4, 9, 6) * 0.2)
        self.sometimes = nn.Linear(11, 7)
        self.thawed = nn.Linear(13, 21)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.unused = nn.Linear(5, 5)
        self.lm_head = nn.Linear(12, 29, bias=False)
        self.lm_head.weight = self.embedding.weight


MATRICES = ("up.weight", "down.weight", "conv1.weight", "conv2.weight", "experts", "sometimes.weight", "thawed.weight", "frozen.weight", "unused.weight")  # fmt: skip


def _odd(named: Named) -> list[dict[str, Any]]:
    return [{"params": list(named.values())}]


def _network(named: Named) -> list[dict[str, Any]]:
    return [
        {"params": [p for name, p in named.items() if (name in MATRICES) == use_muon], "use_muon": use_muon}
        for use_muon in (True, False)
    ]  # fmt: skip


def _groups(named: Named) -> list[dict[str, Any]]:
    p = list(named.values())
    return [
        {"params": p[0:2], "lr": 0.05, "weight_decay": 0.0, "nesterov": False},
        {"params": p[4:6], "lr": 2e-3, "weight_decay": 0.3, "use_muon": False, "betas": (0.8, 0.95)},
        {"params": p[2:4], "lr": 4e-3, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.8},
        {"params": p[6:7], "lr": 3e-3, "weight_decay": 0.0, "use_muon": False, "eps": 1e-4},
        {"params": p[7:8], "ns_steps": 3, "ns_coefficients": (3.0, -3.2, 1.2)},
    ]  # fmt: skip


def _warm(opt: Any) -> Any:
    ramp = lr_scheduler.LinearLR(opt, 0.1, total_iters=7)
    down = lr_scheduler.CosineAnnealingLR(opt, 190, eta_min=1e-5)
    return lr_scheduler.SequentialLR(opt, [ramp, down], [10])


JOBS = {
    "odd shapes": Job(lambda: Shapes((17, 5), (1, 33), (64, 1), (1, 1), (5, 70), (48, 48), (3, 2)), _odd),
    "network": Job(
        Network,
        _network,
        {"lr": 0.02, "adamw_lr": 2e-3},
        by_module={"route": lambda name, p: p.ndim > 2 or None},
        unfrozen={"thawed.weight": 3, "thawed.bias": 7},
        absent=lambda name, step: name.startswith("unused") or (name.startswith("sometimes") and step % 3 != 0),
    ),
    "groups": Job(
        lambda: Shapes((17, 5), (9, 31), (20, 20), (33, 4), (13,), (3, 4, 5), (), (8, 14), (6, 10), (19,)),
        _groups,
        {"lr": 0.01},
        late={
            4: lambda named: {"params": [list(named.values())[8]], "lr": 0.03},
            8: lambda named: {"params": [list(named.values())[9]], "lr": 1e-3, "use_muon": False},
        },
        schedule=lambda opt: lr_scheduler.ExponentialLR(opt, 0.99),
    ),
    "clipped by torch": Job(
        Network, _network, {"lr": 0.02, "adamw_lr": 1e-3}, by_module={"route": lambda name, p: p.ndim > 2 or None},
        clip=0.7, clip_by_torch=True, schedule=_warm,
    ),
    "clipped by muond": Job(
        Network, _network, {"lr": 0.02, "adamw_lr": 1e-3}, by_module={"route": lambda name, p: p.ndim > 2 or None},
        clip=0.7, schedule=_warm,
    ),
}  # fmt: skip


def forced(
    rank: int,
    world: int,
    folder: str,
    steps: int,
    break_at: int,
    names: Iterable[str] = tuple(JOBS),
    **options: Any,
) -> dict[str, Any]:
    """Jobs as one rank of DDP, ``steps`` steps; what they hold at ``break_at`` goes to a file for `resumed`."""
    ends, broken = {}, {}
    for name in names:
        run = Run(JOBS[name], "muond", ddp=True, first=1, **options)
        run.steps(1, break_at)
        broken[name] = run.saved()
        run.steps(break_at + 1, steps)
        ends[name] = run.saved()
        run.opt.close()
    torch.save(broken, f"{folder}/broken{rank}.pt")
    return ends


def resumed(rank: int, world: int, folder: str, steps: int, break_at: int) -> dict[str, Any]:
    """The same from the file on."""
    ends, broken = {}, torch.load(f"{folder}/broken{rank}.pt")
    for name, saved in broken.items():
        run = Run(JOBS[name], "muond", ddp=True, first=break_at + 1)
        run.load(saved)
        run.steps(break_at + 1, steps)
        ends[name] = run.saved()
        run.opt.close()
    return ends


def ranks(rank: int, world: int, folder: str, what: str, steps: int, break_at: int) -> None:
    """What a spawned rank runs: `forced` or `resumed`, its result to WHAT-rankN.pt."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{what}", rank=rank, world_size=world
    )
    ends = globals()[what](rank, world, folder, steps, break_at)
    torch.save(ends, f"{folder}/{what}-rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Where two results of `Run.saved` are not the same to the bit: weights, state, settings."""
    found = [
        f"{k} of the model" for k, v in a["model"].items() if not torch.equal(v, b["model"][k])
    ]
    ours, theirs = a["optimizer"], b["optimizer"]
    found += [
        f"{key} of parameter {i}"
        for i, values in ours["state"].items()
        for key, value in values.items()
        if not torch.equal(value, theirs["state"][i][key])
    ]
    if ours["param_groups"] != theirs["param_groups"]:
        found.append("parameter groups")
    return found
