"""What the ranks of the FSDP2, HSDP and tensor-parallel tests run; every scenario has a name, and saves what it returns.

`Bag` is a model whose reduced gradients are known exactly, whatever the mesh: its loss is the sum of every parameter times a table of small integers,
the same on every rank, so averages and sums over 2 or 4 ranks round nothing. Weights are read as the framework itself gathers them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ddp_worker import start
from processes import children
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
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
    "experts": ((4, 6, 10), 1),
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
        if isinstance(p, DTensor) and p.placements == (Replicate(),):
            # As under sequence parallelism: each rank has a share of the gradient, three quarters the first of two.
            mesh = p.device_mesh
            share = gradient / 4 if mesh.get_local_rank() else gradient * (5 - mesh.size()) / 4
            share = DTensor.from_local(share[None], mesh, [Shard(0)])
            total = total + (p * share).sum().full_tensor()
        elif isinstance(p, DTensor):
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
    return p.ndim >= 2 and "embed" not in name


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


def cut(bag: Bag, mesh: object, halves: Iterable[nn.Module] | None = None) -> None:
    """Tensor parallelism: every parameter (of ``halves``) as SHAPES has it."""
    places = {name.replace(".", "_"): dim for name, (_, dim) in SHAPES.items()}
    for half in bag.halves if halves is None else halves:
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


def optimizer(model: nn.Module, **options: object) -> muond.Muon:
    return muond.Muon(model, route=routed, **settings(), **options)


def run(model: nn.Module, opt: muond.Muon, steps: range) -> None:
    for step in steps:
        opt.zero_grad()
        model(exact_gradients(step)).backward()
        opt.step()


def end(model: nn.Module, opt: muond.Muon) -> dict:
    """Weights and state; whether the weights outlive the optimizer."""
    result = {"weights": gathered(model), "state": whole(opt.state_dict())}
    opt.close()
    closed = gathered(model)
    result["closed"] = all(torch.equal(closed[k], v) for k, v in result["weights"].items())
    return result


def train(place: Callable[[Bag], nn.Module], **options: object) -> dict:
    model = place(Bag())
    opt = optimizer(model, **options)
    run(model, opt, range(STEPS))
    return end(model, opt)


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


def mixed_precision() -> dict:
    """bfloat16 in forward and backward (the tables are exact there), reduced in fp32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(dist.get_world_size(), mp_policy=policy)(Bag())
    opt = optimizer(model)
    run(model, opt, range(STEPS))
    weights = {name: p.full_tensor().detach() for name, p in model.named_parameters()}
    rounded = gathered(model)
    assert all(torch.equal(rounded[name], value.bfloat16()) for name, value in weights.items())
    return {**end(model, opt), "weights": weights}


def accumulated() -> dict:
    """Two micro-batches a step, only the second of which is reduced."""
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    for step in range(STEPS):
        opt.zero_grad()
        half = {name: gradient / 2 for name, gradient in exact_gradients(step).items()}
        for last in (False, True):
            model.set_requires_gradient_sync(last)
            model(half).backward()
        opt.step()
    return end(model, opt)


def beside_plain() -> dict:
    """Tensor parallelism for half of the model; the other half are plain parameters."""

    def place(bag: Bag) -> Bag:
        cut(bag, init_device_mesh("cpu", (dist.get_world_size(),)), bag.halves[:1])
        return bag

    return train(place)


def skipped() -> dict:
    """One rank's loss scaler finds an Inf: no rank steps, whatever the others have; then all go on."""
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    run(model, opt, range(1))
    before = gathered(model)
    opt.grad_scale, opt.found_inf = torch.tensor(2.0), torch.tensor(float(dist.get_rank() == 1))
    opt.zero_grad()
    model({name: gradient * 2 for name, gradient in exact_gradients(1).items()}).backward()
    opt.step()
    after = gathered(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    opt.found_inf = torch.tensor(0.0)
    opt.step()
    opt.grad_scale = opt.found_inf = None
    run(model, opt, range(2, STEPS))
    return end(model, opt)


def moved() -> dict:
    """Values loaded into the model, and storage that was exchanged under it, are what the next step starts from."""
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    run(model, opt, range(2))
    opt.close()
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    run(model, opt, range(1))
    start = sharded(dist.get_world_size())(Bag()).state_dict()
    state = opt.state_dict()["state"]
    model.load_state_dict(start)
    for p in model.parameters():
        opt.state[p].update({key: torch.zeros_like(value) for key, value in opt.state[p].items()})
    assert all(
        value.abs().max() > 0 for values in state.values() for value in map(_full, values.values())
    )
    for p in model.parameters():  # as Module.to and its like do
        p._local_tensor = p._local_tensor.clone()
    for unit in [*model.halves, model]:
        for group in getattr(unit._get_fsdp_state(), "_fsdp_param_groups", ()):
            for record in group.fsdp_params:
                record.reset_sharded_param()
    run(model, opt, range(STEPS))
    return end(model, opt)


def _full(value: torch.Tensor) -> torch.Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def handed_over() -> dict:
    """Half way the state goes to a new optimizer: as DTensors first, then as whole plain tensors."""
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    run(model, opt, range(5))
    for first, last in ((5, 12), (12, STEPS)):
        state = opt.state_dict()
        for p, values in zip(_params(opt), state["state"].values(), strict=True):
            for key, value in values.items():
                assert key == "step" or value.placements == p.placements
        if first == 12:
            state = {**state, "state": whole(state)}
        opt.close()
        opt = optimizer(model)
        opt.load_state_dict(state)
        run(model, opt, range(first, last))
    return end(model, opt)


def _params(opt: muond.Muon) -> list[torch.Tensor]:
    return [p for group in opt.param_groups for p in group["params"]]


# ---- a stepper that dies


def dying() -> dict:
    """On a daemon whose steppers die at points of a step."""
    return train(sharded(dist.get_world_size()), endpoint=os.environ["MESH_DYING"])


def killed() -> dict:
    """The first rank kills the stepper at random instants of every other step, and of its state's way out and in."""
    model, random_instant = sharded(dist.get_world_size())(Bag()), random.Random(3)
    opt = optimizer(model, endpoint=os.environ["MESH_KILLED"])

    def soon() -> None:
        if dist.get_rank() == 0:
            threading.Timer(random_instant.uniform(0, 0.02), _kill_stepper).start()

    for step in range(STEPS):
        if step % 2:
            soon()
        run(model, opt, range(step, step + 1))
        if step == STEPS // 2:
            soon()
            opt.load_state_dict(opt.state_dict())
    return end(model, opt)


def _kill_stepper() -> None:
    for stepper in children(int(os.environ["MESH_KILLED_PID"])):
        with contextlib.suppress(ProcessLookupError):  # it was ending
            os.kill(stepper, signal.SIGKILL)


# ---- torch.distributed.checkpoint


def _checkpoint() -> str:
    return os.environ["MESH_CHECKPOINT"]


def saved_half() -> dict:
    model = sharded(dist.get_world_size())(Bag())
    opt = optimizer(model)
    run(model, opt, range(STEPS // 2))
    weights, state = get_state_dict(model, opt)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=_checkpoint())
    opt.close()
    return {}


def _second_half(place: Callable[[Bag], nn.Module]) -> dict:
    model = place(Bag())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    opt = optimizer(model)
    weights, state = get_state_dict(model, opt)
    both = {"model": weights, "optimizer": state}
    dcp.load(both, checkpoint_id=_checkpoint())
    set_state_dict(model, opt, model_state_dict=both["model"], optim_state_dict=both["optimizer"])
    run(model, opt, range(STEPS // 2, STEPS))
    return end(model, opt)


def loaded_fsdp() -> dict:
    return _second_half(sharded(dist.get_world_size()))


def loaded_hsdp() -> dict:
    return _second_half(sharded(2, 2))


def loaded_tp() -> dict:
    return _second_half(tensor_parallel)


# ---- what is refused


def refused() -> dict:
    """What each mistake is told; afterwards the ranks go on together."""
    told = {}
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))

    def attempt(name: str, params: list[torch.Tensor], **options: object) -> None:
        opt = muond.Muon(params, **options)
        for p in params:
            p.grad = torch.ones_like(p)
        try:
            opt.step()
            told[name] = ""
        except (ValueError, muond.MuondError) as error:
            told[name] = f"{type(error).__name__}: {error}"
        opt.close()

    def sharded_parameter(*shape: int) -> nn.Parameter:
        return nn.Parameter(distribute_tensor(torch.ones(shape), mesh, [Shard(0)]))

    attempt("shape", [sharded_parameter(4, 4 + rank)])
    attempt("none", [sharded_parameter(4, 4)], data_parallel="none")
    odd = sharded_parameter(4, 4)
    odd._local_tensor = torch.ones(3, 4)
    attempt("local", [odd])
    lone = sharded_parameter(4, 4)
    if rank == 1:
        lone._local_tensor = torch.ones(3, 4)
    attempt("lone", [lone])
    attempt("inside", [sharded_parameter(4, 4)], daemon=None)
    other = init_device_mesh("cpu", (world,)) if rank == 0 else mesh
    placement = Replicate() if rank == 0 else Shard(0)
    mixed = nn.Parameter(
        distribute_tensor(torch.ones(4, 4), other, [placement], src_data_rank=None)
    )
    attempt("cover", [mixed])
    attempt(
        "dtype", [nn.Parameter(distribute_tensor(torch.ones(4, 4).bfloat16(), mesh, [Shard(0)]))]
    )
    attempt("right", [sharded_parameter(4, 4)])
    return told


def scenarios(rank: int, world: int, folder: str, *names: str) -> None:
    """Runs the named functions ("name" here, "module:name") one after the other; what they return goes to NAME-rankN.pt."""
    start(rank, world, folder)
    for name in names:
        module, _, function = name.rpartition(":")
        where = import_module(module) if module else sys.modules[__name__]
        result = getattr(where, function)()
        torch.save(result, Path(folder) / f"{function}-rank{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()
