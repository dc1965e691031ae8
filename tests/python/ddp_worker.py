"""What the ranks of the DDP tests run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import trajectory_jobs
from reference import SmallModel, batch, loss_of
from torch.nn.parallel import DistributedDataParallel

import muond

STEPS = 8
FORCED = ("network", "groups")  # the jobs of trajectory_jobs.py whose ranks join more than once


def start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )


def scenarios(rank: int, world: int, folder: str, *names: str) -> None:
    """Runs the named functions below one after the other; what they return goes to NAME-rankN.pt."""
    start(rank, world, folder)
    for name in names:
        torch.save(globals()[name](rank, world), Path(folder) / f"{name}-rank{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


def model_of(seed: int = 5) -> SmallModel:
    torch.manual_seed(seed)
    return SmallModel()


def settings() -> dict:
    return {"lr": 0.02, "adamw_lr": 2e-3, "clip_norm": 1.0, "verbose": False}


def train(rank: int, world: int, steps: int = STEPS) -> object:
    """DDP's own reduction; the first rank writes the reduced gradients down, every rank its weights and state."""
    model = model_of(seed=5 + rank)  # DDP makes them equal
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    opt = muond.Muon(wrapped, **settings())
    gradients = []
    for step in range(steps):
        opt.zero_grad()
        loss_of(wrapped, batch(100 * rank + step)).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        if step == 0:
            first = [p.detach().clone() for p in model.parameters()]
        opt.step()
    state = opt.state_dict()
    opt.close()
    return {
        "first": first,
        "gradients": gradients,
        "weights": list(model.parameters()),
        "state": state,
    }


def train_on(rank: int, world: int) -> object:
    return train(rank, world, 200)


def forced_jobs(rank: int, world: int) -> object:
    with tempfile.TemporaryDirectory() as folder:
        ends = trajectory_jobs.forced(rank, world, folder, 12, 6, FORCED)
        return {"ends": ends, "resumed": trajectory_jobs.resumed(rank, world, folder, 12, 6)}


def forced_inside(rank: int, world: int) -> object:
    """The jobs with the engine in every rank."""
    with tempfile.TemporaryDirectory() as folder:
        return trajectory_jobs.forced(rank, world, folder, 12, 6, FORCED, daemon=None)


def inner(rank: int, world: int) -> object:
    """The optimizer gets the module inside, before DDP is around it, as trainers do."""
    model = model_of()
    opt = muond.Muon(model, **settings())
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    loss_of(wrapped, batch(rank)).backward()
    opt.step()
    result = list(model.parameters())
    opt.close()
    return result


def unreduced(rank: int, world: int) -> object:
    """Each rank keeps its own gradient; the daemon averages."""
    model = model_of()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    opt = muond.Muon(wrapped, data_parallel="unreduced", **settings())
    gradients = []
    for step in range(STEPS):
        opt.zero_grad()
        loss_of(wrapped, batch(100 * rank + step)).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        opt.step()
    result = {"weights": list(model.parameters()), "gradients": gradients}
    opt.close()
    return result


def wrapped_anew(rank: int, world: int) -> object:
    """A layer is unfrozen after some steps, which takes another DDP: the job is joined anew, by every rank, with its state."""
    model = model_of()
    model.up.requires_grad_(False)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    opt = muond.Muon(wrapped, **settings())
    gradients = []
    for step in range(4):
        if step == 2:
            model.up.requires_grad_(True)
            wrapped = DistributedDataParallel(model, find_unused_parameters=True)
        opt.zero_grad()
        loss_of(wrapped, batch(100 * rank + step)).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
        opt.step()
    result = {"weights": list(model.parameters()), "gradients": gradients}
    opt.close()
    return result


def refusals_inside(rank: int, world: int) -> object:
    told = refusals(rank, world, daemon=None)
    p = torch.nn.Parameter(torch.full((4, 4), 1.0 + rank))
    opt = muond.Muon([p], data_parallel="reduced", daemon=None)
    try:
        opt.step()
    except ValueError as error:
        told["values"] = str(error)
    return told


def refusals(rank: int, world: int, **options: object) -> object:
    """Ranks that disagree are told so, and nothing has changed; then they agree and go on."""
    told = {}
    p = torch.nn.Parameter(torch.ones(4, 4))
    opt = muond.Muon([p], **options)
    try:
        opt.step()
    except ValueError as error:
        told["undeclared"] = str(error)
    opt = muond.Muon([p], lr=0.5, data_parallel="reduced", **options)
    p.grad = torch.ones(4, 4)
    opt.step()
    before = p.detach().clone()
    p.grad = torch.full((4, 4), 1.0 - 2.0 * rank)
    told["gradients"] = _refused(opt)
    p.grad = torch.ones(4, 4)
    opt.param_groups[0]["lr"] = 0.5 + rank
    told["settings"] = _refused(opt)
    opt.param_groups[0]["lr"] = 0.5
    p.grad = torch.ones(4, 4) if rank == 0 else None
    told["absent"] = _refused(opt)
    told["unchanged"] = bool(torch.equal(p, before))
    p.grad = torch.ones(4, 4)
    opt.step()
    told["moved"] = not torch.equal(p, before)
    result = told
    opt.close()
    return result


def _refused(opt: muond.Muon) -> str:
    try:
        opt.step()
    except muond.ReplicasDifferError as error:
        return str(error)
    return ""


def other_manifest_inside(rank: int, world: int) -> object:
    return other_manifest(rank, world, daemon=None)


def other_manifest(rank: int, world: int, **options: object) -> object:
    """Ranks with different shapes never start, and every rank is told what differs."""
    p = torch.nn.Parameter(torch.ones(4, 4 + rank))
    p.grad = torch.ones_like(p)
    opt = muond.Muon([p], data_parallel="reduced", **options)
    try:
        opt.step()
        told = ""
    except (muond.MuondError, ValueError) as error:
        told = str(error)
    result = told
    opt.close()
    return result


def one_cannot_join(rank: int, world: int) -> object:
    """A rank that gets in and then fails takes nobody along: all are told why, and all may try again."""
    p = torch.nn.Parameter(torch.ones(4, 4))
    p.grad = torch.ones_like(p)
    opt = muond.Muon([p], lr=0.5, data_parallel="reduced")
    attachment = muond.optimizer.Attachment

    def fails(*_: object) -> None:
        raise MemoryError("no room for 64 bytes")

    if rank == world - 1:
        muond.optimizer.Attachment = fails
    try:
        opt.step()
        told = ""
    except (MemoryError, muond.MuondError) as error:
        told = f"{type(error).__name__}: {error}"
    finally:
        muond.optimizer.Attachment = attachment
    unchanged = bool(torch.equal(p, torch.ones(4, 4)))
    opt.step()
    moved = not torch.equal(p, torch.ones(4, 4))
    opt.close()
    return told, unchanged, moved


def lose_a_rank(rank: int, world: int, folder: str) -> None:
    """The last rank dies between steps: the others get an error, not a hang."""
    start(rank, world, folder)
    p = torch.nn.Parameter(torch.ones(4, 4))
    opt = muond.Muon([p], data_parallel="reduced")
    p.grad = torch.ones(4, 4)
    opt.step()
    if rank == world - 1:
        os._exit(9)
    before = p.detach().clone()
    try:
        opt.step()
        told = ""
    except muond.MuondError as error:
        told = f"{type(error).__name__}: {error}"
    torch.save((told, bool(torch.equal(p, before))), Path(folder) / f"lost-rank{rank}.pt")
    opt.close()
