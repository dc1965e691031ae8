"""Who else holds these parameters: the ranks of the job, and whether their gradients are reduced.

DDP is not in the tensors, so it is looked for: in the model, then around the model's forward. When nothing is found in a world of several
ranks, the caller has to say it; guessing wrong would train on one rank's gradients, or sum them twice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from . import _library as lib
from .errors import DaemonLostError, MuondError

CHOICES = ("reduced", "unreduced", "none")

# What a rank is told when another one is why it cannot join: that one's own words say more.
_CONSEQUENCES = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


@dataclass(frozen=True)
class World:
    """This rank among the replicas of the job's parameters."""

    rank: int
    size: int
    kind: int  # REPLICA_SAME or REPLICA_SUM
    divisor: float
    group: object | None  # the process group; None in a world of one


ALONE = World(0, 1, lib.REPLICA_SAME, 1.0, None)


def _ddp_type() -> type:
    return torch.nn.parallel.DistributedDataParallel


def first_rank() -> bool:
    """Whether this process speaks for all of them."""
    return not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0


class DdpWatch:
    """Finds the DDP wrapper of a model: inside it now, or around it at its first forward."""

    def __init__(self, model: nn.Module | None) -> None:
        self._found: weakref.ref | None = None
        self._hook = None
        self.group: object | None = None  # the process group of the wrapper that was found
        if model is None or not dist.is_available():
            return
        inside = [m for m in model.modules() if isinstance(m, _ddp_type())]
        if inside:
            self._keep(inside[0])
        else:
            self._hook = model.register_forward_pre_hook(self._look)

    def _look(self, _module: nn.Module, _inputs: object) -> None:
        active = getattr(_ddp_type(), "_active_ddp_module", None)
        if active is not None:
            self._keep(active)
            self.stop()

    def _keep(self, ddp: nn.Module) -> None:
        self._found, self.group = weakref.ref(ddp), ddp.process_group

    def stop(self) -> None:
        """Takes the hook away; what was found stays."""
        hook, self._hook = self._hook, None
        if hook is not None:
            hook.remove()

    def found(self) -> nn.Module | None:
        return self._found() if self._found is not None else None


def _check_inside(ddp: nn.Module, named: Iterable[tuple[str, torch.Tensor]]) -> None:
    reduced = {id(p) for p in ddp.parameters()}
    outside = [name for name, parameter in named if id(parameter) not in reduced]
    if outside:
        raise ValueError(
            f"{len(outside)} parameters are not of the DistributedDataParallel model, {outside[0]} "
            'first: if their gradients are reduced too, say so with data_parallel="reduced"'
        )


def resolve(
    data_parallel: str | None, watch: DdpWatch, named: Iterable[tuple[str, torch.Tensor]]
) -> World:
    """The world as it is at the first step. Raises ValueError where it cannot be known."""
    if data_parallel is not None and data_parallel not in CHOICES:
        raise ValueError(f"data_parallel must be one of {CHOICES}, not {data_parallel!r}")
    if not dist.is_available() or not dist.is_initialized() or data_parallel == "none":
        return ALONE
    ddp = watch.found()
    # A wrapper that is gone was replaced by another around the same model (a layer was unfrozen, say); gradients that are not
    # reduced by it are found out at the step: replicas are compared.
    group = watch.group if watch.group is not None else dist.group.WORLD
    size = dist.get_world_size(group)
    if size == 1:
        return ALONE
    if ddp is not None and data_parallel is None:
        _check_inside(ddp, named)
    elif data_parallel is None and watch.group is None:
        raise ValueError(
            f"torch.distributed has {size} ranks, and nothing tells whether these parameters' "
            "gradients are reduced: pass the DistributedDataParallel model itself, or say "
            'data_parallel="reduced" (every rank holds the same gradient at step()), "unreduced" '
            '(each holds its own, to be averaged) or "none" (ranks are jobs of their own)'
        )
    rank = dist.get_rank(group)
    if data_parallel == "unreduced":
        return World(rank, size, lib.REPLICA_SUM, float(size), group)
    return World(rank, size, lib.REPLICA_SAME, 1.0, group)


def keep_unreduced(ddp: nn.Module) -> None:
    """Makes ``ddp`` leave each rank its own gradient; before its first backward.

    ValueError where that cannot be: another communication hook is there already.
    """
    if getattr(ddp, "_comm_hooks", None):
        hook = ddp._comm_hooks[0][0]
        raise ValueError(
            'data_parallel="unreduced" needs the communication hook of DistributedDataParallel, '
            f"but {getattr(hook, '__name__', hook)} is registered there"
        )

    # No annotations: DDP compares them with types, and here they are strings.
    def leave(state, bucket):  # noqa: ANN001
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    ddp.register_comm_hook(None, leave)


def job_name() -> str:
    """A name that no other running job has: script, process, random."""
    script = Path(sys.argv[0] or "python").stem if sys.argv else "python"
    return f"{script or 'python'}-{os.getpid()}-{secrets.token_hex(4)}"


def agree(
    world: World,
    endpoint: str | None,
    job: str | None,
    device_uuid: str | None,
    start: Callable[[list[str | None]], str],
) -> tuple[str, str, int]:
    """Endpoint of this rank's daemon, the job's name and a number for this try to join. Without an endpoint the first rank calls ``start``
    with every rank's device; with endpoints, ranks may name different daemons.

    A collective call: every rank must make it. A failure of the first rank is raised on all of them.
    """
    attempt = secrets.randbits(64)
    if world.size == 1:
        return endpoint or start([device_uuid]), job or job_name(), attempt
    mine = (socket.gethostname(), endpoint, job, device_uuid)
    everyone: list[tuple[str, str | None, str | None, str | None]] = [mine] * world.size
    dist.all_gather_object(everyone, mine, group=world.group)
    hosts = sorted({entry[0] for entry in everyone})
    named = [entry[1] for entry in everyone]
    if len({entry[2] for entry in everyone}) > 1 or (None in named and any(named)):
        raise ValueError(
            "ranks name different jobs, or a daemon on some of them only: "
            + ", ".join(f"rank {r}: {e[1]} {e[2]}" for r, e in enumerate(everyone[:4]))
        )
    if len(hosts) > 1 and None in named:
        raise MuondError(
            f"the {world.size} ranks run on {len(hosts)} hosts ({', '.join(hosts[:4])}): start a "
            "daemon on each, all with one coordinator, and name each rank's own (MUOND_ENDPOINT)",
            "UNIMPLEMENTED",
        )
    said: list[tuple[str | None, str, str, int]] = [(None, "", "", 0)]
    if world.rank == 0:
        try:
            started = endpoint or start([entry[3] for entry in everyone])
            said = [(None, started, job or job_name(), attempt)]
        except (MuondError, ImportError, OSError) as error:  # the others wait for it
            said = [(str(error), "", "", 0)]
    dist.broadcast_object_list(said, src=dist.get_global_rank(world.group, 0), group=world.group)
    failure, started, job, attempt = said[0]
    if failure is not None:
        raise MuondError(f"the job's first rank could not start a daemon: {failure}", "UNAVAILABLE")
    return endpoint or started, job, attempt


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """What is done within succeeds on every rank, or fails on all of them, each told the reason.

    Every rank goes through it, one that fails too: nobody leaves, and no daemon ends with its first rank, before all have their answers.
    """
    try:
        yield
    except BaseException as error:
        _compare(world, error)
        raise
    _compare(world, None)


def _compare(world: World, own: BaseException | None) -> None:
    """Raises another rank's failure where there is none here, or only the consequence of that one."""
    if world.size == 1:
        return
    mine = None if own is None else (getattr(own, "status", type(own).__name__), str(own))
    everyone: list[tuple[str, str] | None] = [mine] * world.size
    try:
        dist.all_gather_object(everyone, mine, group=world.group)
    except RuntimeError as lost:
        if own is not None:
            return
        text = f"a rank ended while the {world.size} ranks joined: {lost}"
        raise DaemonLostError(text, "UNAVAILABLE") from lost
    failures = [(rank, told) for rank, told in enumerate(everyone) if told is not None]
    causes = [failure for failure in failures if failure[1][0] not in _CONSEQUENCES] or failures
    if not causes or (world.rank, mine) in causes:
        return
    rank, (status, text) = causes[0]
    kind = DaemonLostError if status == "UNAVAILABLE" else MuondError
    raise kind(f"rank {rank} could not join: {text}", status) from own
