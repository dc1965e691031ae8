"""What the ranks of the FSDP2, HSDP and tensor-parallel tests run; every scenario has a name, and saves what it returns.

`Bag` is a model whose reduced gradients are known exactly, whatever the mesh: its loss is the sum of every parameter times a table of small integers,
the same on every rank, so averages and sums over 2 or 4 ranks round nothing. Weights are read as the framework itself gathers them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import muond

STEPS = 20
# Uneven rows, fewer rows than ranks, one row, one element; and for each how tensor parallelism cuts it (None: not at all).
SHAPES = {
    "tall": ((33, 17), 0),
    "wide": ((9, 40), 1),
    "odd": ((7, 5), 0),
    "row": ((1, 40), 1),
    "square": ((24, 24), 1),
    "pair": ((2, 9), None),
    "embed.weight": ((51, 6), 0),
    "norm": ((13,), None),
    "bias": ((3,), 0),
    "one": ((1,), None),
    "long": ((301,), None),
}


class Bag(nn.Module):
    """Parameters, and a loss with a known gradient. Two submodules, so that FSDP2 has groups to gather one after the other."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.halves = nn.ModuleList([nn.Module(), nn.Module()])
        for i, (name, (shape, _)) in enumerate(SHAPES.items()):
            value = torch.randn(shape, generator=generator)
            self.halves[i % 2].register_parameter(name.replace(".", "_"), nn.Parameter(value))
        for half in self.halves:
            half.forward = _weigh.__get__(half)

    def forward(self, gradients: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(half(gradients) for half in self.halves)


def _weigh(half: nn.Module, gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    total = torch.zeros(())
    for name, p in half.named_parameters():
        gradient = gradients[name]
        if isinstance(p, DTensor):
            gradient = distribute_tensor(gradient, p.device_mesh, p.placements)
            total = total + (p * gradient).sum().full_tensor()
        else:
            total = total + (p * gradient).sum()
    return total


def exact_gradients(step: int) -> dict[str, torch.Tensor]:
    """Of every parameter of a Bag, in its names. Their size changes with the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    return {
        name.replace(".", "_"): torch.randint(-64, 65, shape, generator=generator).float()
        * 2.0 ** ((step % 5) - 8)
        for name, (shape, _) in SHAPES.items()
    }


def settings() -> dict:
    return {"lr": 0.02, "adamw_lr": 2e-3, "clip_norm": 5.0, "verbose": False}


def routed(name: str, p: torch.Tensor) -> bool:
    return p.ndim == 2 and "embed" not in name


# ---- the model on a mesh


def sharded(*sizes: int, reshard: bool = True, **options: object) -> Callable[[Bag], Bag]:
    """FSDP2 over ``sizes`` ranks; two sizes: HSDP."""

    def apply(bag: Bag) -> Bag:
        names = ("replicate", "shard")[-len(sizes) :]
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        for half in bag.halves:
            fully_shard(half, mesh=mesh, reshard_after_forward=reshard, **options)
        fully_shard(bag, mesh=mesh, reshard_after_forward=reshard, **options)
        return bag

    return apply


def cut(bag: Bag, mesh: object) -> None:
    """Tensor parallelism: every parameter as SHAPES has it."""
    places = {name.replace(".", "_"): dim for name, (_, dim) in SHAPES.items()}
    for half in bag.halves:
        for name, p in list(half.named_parameters()):
            where = Replicate() if places[name] is None else Shard(places[name])
            value = distribute_tensor(p.detach(), mesh, [where])
            half.register_parameter(name, nn.Parameter(value))


def tensor_parallel(bag: Bag) -> Bag:
    cut(bag, init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",)))
    return bag


def both(bag: Bag) -> Bag:
    """Tensor parallelism inside FSDP2, 2 x 2."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    cut(bag, mesh["tp"])
    for half in bag.halves:
        fully_shard(half, mesh=mesh["dp"])
    return fully_shard(bag, mesh=mesh["dp"])


def gathered(bag: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as a forward pass would see them."""
    units = [m for m in bag.modules() if hasattr(m, "unshard")]
    for unit in units:
        unit.unshard()
    found = {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p)
        .detach()
        .clone()
        for name, p in bag.named_parameters()
    }
    for unit in units:
        unit.reshard()
    return found


def whole(state: dict) -> dict:
    """A state dict with plain tensors."""
    return {
        index: {
            key: (value.full_tensor() if isinstance(value, DTensor) else value).clone()
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }


# ---- scenarios


def train(place: Callable[[Bag], nn.Module], steps: int = STEPS) -> dict:
    model = place(Bag())
    opt = muond.Muon(model, route=routed, **settings())
    for step in range(steps):
        opt.zero_grad()
        model(exact_gradients(step)).backward()
        opt.step()
    state = opt.state_dict()
    result = {"weights": gathered(model), "state": whole(state)}
    opt.close()
    closed = gathered(model)
    result["closed"] = all(torch.equal(closed[k], v) for k, v in result["weights"].items())
    return result


def fsdp() -> dict:
    return train(sharded(dist.get_world_size()))


def fsdp_kept() -> dict:
    return train(sharded(dist.get_world_size(), reshard=False))


def hsdp() -> dict:
    return train(sharded(2, 2))


def tp() -> dict:
    return train(tensor_parallel)


def tp_fsdp() -> dict:
    return train(both)


def ddp() -> dict:
    return train(DistributedDataParallel)


def start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )


def scenarios(rank: int, world: int, folder: str, *names: str) -> None:
    """Runs the named functions one after the other; what they return goes to NAME-rankN.pt."""
    start(rank, world, folder)
    for name in names:
        torch.save(globals()[name](), Path(folder) / f"{name}-rank{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()
