"""DTensor parameters (FSDP2, HSDP, tensor parallelism): what this rank holds of them, where it lies, and how it is moved into the slab."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from . import _library as lib
from . import shards
from ._session import Manifest, Session, Slab
from .device import slab_tensor
from .replicas import DdpWatch, World

if dist.is_available():
    from torch.distributed.tensor import DTensor, Partial, Replicate
else:  # a build of torch without it has no DTensors either

    class DTensor:  # type: ignore[no-redef]
        """Nothing is one."""


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor."""
    return isinstance(tensor, DTensor)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part; of a plain tensor, all of it."""
    if not is_sharded(tensor):
        return tensor
    local = tensor._local_tensor
    return local.wait() if hasattr(local, "wait") else local


def layout_of(p: DTensor, name: str) -> shards.Layout:
    """What this rank holds of ``p``. ValueError for a placement that is not known, and where the local tensor is another."""
    coordinate = p.device_mesh.get_coordinate()
    if coordinate is None:
        raise ValueError(f"{name} lies on {p.device_mesh}, which this rank is not in")
    axes = []
    for d, placement in enumerate(p.placements):
        axis = shards.Axis(p.device_mesh.size(d), coordinate[d])
        cuts = getattr(placement, "dim", None)
        if cuts is not None:
            stride = int(getattr(placement, "split_factor", 1))
            axis = replace(axis, cuts=cuts % max(p.ndim, 1), stride=stride)
        elif not isinstance(placement, Replicate):
            raise ValueError(f"{name} has placement {placement}: shards and replicas are served")
        axes.append(axis)
    _check_order(p, name)
    try:
        layout = shards.layout(p.shape, axes)
    except ValueError as error:
        raise ValueError(f"{name}, placed as {p.placements}: {error}") from None
    if tuple(p._local_tensor.shape) != layout.local_shape:
        raise ValueError(
            f"{name} of shape {tuple(p.shape)}, placed as {p.placements}: this rank, at {coordinate} "
            f"of {p.device_mesh}, holds {tuple(p._local_tensor.shape)}, and by the placements it "
            f"would be {layout.local_shape}"
        )
    return layout


def _check_order(p: DTensor, name: str) -> None:
    order = getattr(p._spec, "shard_order", None)
    if order is None or not hasattr(type(p._spec), "compute_default_shard_order"):
        return
    usual = type(p._spec).compute_default_shard_order(p.placements)
    if order != usual:
        raise ValueError(
            f"{name}, placed as {p.placements}, was cut in the order {order}, not in the mesh's"
        )


def ranks_of(p: DTensor) -> tuple[int, ...]:
    """The ranks of its mesh, in the mesh's order."""
    return tuple(p.device_mesh.mesh.flatten().tolist())


def world_of(
    named: Iterable[tuple[str, torch.Tensor]], data_parallel: str | None, watch: DdpWatch
) -> World | None:
    """All ranks of the DTensors' mesh; None without DTensors. ``watch`` keeps the process group for the next attach.

    ValueError where that is not one mesh, or not what ``data_parallel`` says.
    """
    sharded = [(name, p) for name, p in named if is_sharded(p)]
    if not sharded:
        return None
    name, first = sharded[0]
    if data_parallel in ("unreduced", "none"):
        raise ValueError(
            f'data_parallel="{data_parallel}" is for plain tensors; {name} is a DTensor on '
            f"{first.device_mesh}, whose ranks and gradients are known: leave it out"
        )
    ranks = ranks_of(first)
    for other_name, other in sharded[1:]:
        if set(ranks_of(other)) != set(ranks):
            raise ValueError(
                f"{name} is on the ranks {_short(ranks)}, {other_name} on "
                f"{_short(ranks_of(other))}; the DTensors of one optimizer must be on the same "
                "ranks: give each mesh an optimizer of its own"
            )
    ranks = tuple(sorted(ranks))
    rank = ranks.index(dist.get_rank())
    if watch.group is None or dist.get_world_size(watch.group) != len(ranks):
        watch.group = _group_of(first, ranks)
    return World(rank, len(ranks), lib.REPLICA_SAME, 1.0, watch.group)


def _short(ranks: Sequence[int]) -> str:
    text = ", ".join(map(str, ranks[:8]))
    return f"{text} and {len(ranks) - 8} more" if len(ranks) > 8 else text


def _group_of(p: DTensor, ranks: tuple[int, ...]) -> object:
    if len(ranks) == dist.get_world_size():
        return dist.group.WORLD
    if p.device_mesh.ndim == 1:
        return p.device_mesh.get_group()
    return dist.new_group(list(ranks), use_local_synchronization=True)


def fsdp_records() -> dict[int, Any]:
    """FSDP2's own record of each parameter of this process, by the parameter's id."""
    try:
        from torch.distributed._composable_state import _module_state_mapping as states
    except ImportError:
        return {}
    found = {}
    for reference in list(states.values()):
        state = reference()
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:
            groups = [getattr(state, "_fsdp_param_group", None)]
        for group in groups:
            for record in getattr(group, "fsdp_params", ()):
                found[id(record.sharded_param)] = record
    return found


class Shard:
    """One DTensor parameter on this rank: its layout, its kind of replicas, its places in the slabs."""

    def __init__(self, p: DTensor, name: str) -> None:
        self.parameter, self.name = p, name
        self.layout = layout_of(p, name)
        self.kind, self.divisor = _replicas_of(p, name)
        self._spec = (p.device_mesh, tuple(p.placements))
        self._record: Any = None  # FSDP2's
        self._views: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []  # on a GPU
        self._pushed: list[bool] = []  # whether the daemon reads this copy's gradient

    def changed(self) -> bool:
        """Whether the gradient that is there now makes the copies of another kind: that takes another manifest."""
        now = _replicas_of(self.parameter, self.name)
        return self.parameter.grad is not None and now != (self.kind, self.divisor)

    def local(self) -> torch.Tensor:
        return local_of(self.parameter)

    def parts_of(self, local: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of the local shape as the rectangles of the layout."""
        if local.numel() == 0:
            return [local]
        parts = []
        for rectangle in self.layout.rectangles:
            part = local
            for d, (at, length) in enumerate(zip(rectangle.local, rectangle.extent, strict=True)):
                part = part.narrow(d, at, length)
            parts.append(part)
        return parts

    # ---- places

    def add_to(self, manifest: Manifest, tensor: int) -> None:
        """Tells the daemon of the rectangles, as blocks of ``tensor``."""
        for rectangle in self.layout.rectangles:
            manifest.add_block(
                tensor,
                rectangle.offset,
                rectangle.extent,
                self.kind,
                self.layout.replica,
                self.layout.replicas,
                self.divisor,
            )

    def attach(
        self, session: Session, block: int, slab: Slab, gradients: Slab, records: dict[int, Any]
    ) -> None:
        """Where the rectangles lie in the slabs from now on: blocks from ``block`` on. ``records``: of `fsdp_records`."""
        device = self.parameter.device
        self._record = records.get(id(self.parameter))
        self._views, self._gradients, self._pushed = [], [], []
        for i, rectangle in enumerate(self.layout.rectangles):
            place = session.place(block + i)
            shape = self.layout.local_shape if place.size == 0 else rectangle.extent
            views = [(self._views, slab, place.parameter_offset)]
            if device.type == "cuda":
                views.append((self._gradients, gradients, place.gradient_offset))
            for kept, memory, offset in views:
                kept.append(
                    torch.empty(shape, device=device)
                    if place.size == 0
                    else slab_tensor(memory, offset, shape, place.size, device)
                )
            self._pushed.append(place.push_gradient)

    def detach(self) -> None:
        """Nothing here holds a slab any more."""
        self._views, self._gradients, self._pushed, self._record = [], [], [], None

    def adopt(self) -> bool:
        """Moves the values into the slab, and the parameter, where it is one dense rectangle that FSDP does not pad."""
        local = self.local()
        for view, part in zip(self._views, self.parts_of(local), strict=True):
            view.copy_(part)
        view, record = self._views[0], self._record
        dense = len(self._views) == 1 and local.is_contiguous() and type(local) is torch.Tensor
        if not dense or local.numel() == 0:
            return False
        if record is not None:
            held = getattr(record, "_sharded_param_data", None)
            plain = held is not None and held.numel() == local.numel()
            if not plain or held.device != local.device or local.is_pinned():
                return False
            # Both or neither: FSDP gathers from the one, everybody else reads the other.
            record._sharded_param_data = view.view(-1)
        self.parameter._local_tensor = view
        return True

    def is_home(self) -> bool:
        """Whether an adopted parameter still lies in the slab."""
        place = self._views[0].data_ptr()
        if self._record is not None and self._record._sharded_param_data.data_ptr() != place:
            return False
        return self.local().data_ptr() == place

    def take(self, adopted: bool) -> None:
        """After an applied step."""
        if adopted:
            torch.autograd.graph.increment_version(self.parameter)
            torch.autograd.graph.increment_version(self.local())
            return
        for view, part in zip(self._views, self.parts_of(self.local()), strict=True):
            part.copy_(view)

    def release(self) -> None:
        """Memory of its own again."""
        if self.is_home():
            own = self._views[0].clone()
            if self._record is not None:
                self._record._sharded_param_data = own.view(-1)
            self.parameter._local_tensor = own

    # ---- gradients

    def check(self) -> None:
        """What a step needs. ValueError."""
        p, g = self.parameter, self.parameter.grad
        if (p.device_mesh, tuple(p.placements)) != self._spec:
            raise ValueError(
                f"{self.name} was placed as {self._spec[1]} when the optimizer attached and is as "
                f"{p.placements} now: make a new optimizer"
            )
        if tuple(p._local_tensor.shape) != self.layout.local_shape:
            raise ValueError(
                f"{self.name} had a local shape of {self.layout.local_shape} when the optimizer "
                f"attached and has {tuple(p._local_tensor.shape)} now: make a new optimizer"
            )
        if g is None:
            return
        if not is_sharded(g):
            raise ValueError(
                f"{self.name} is a DTensor and its gradient a plain tensor of {tuple(g.shape)}"
            )
        if g.dtype is not torch.float32 or tuple(g.shape) != self.layout.shape:
            raise ValueError(
                f"{self.name}.grad is {g.dtype} of shape {tuple(g.shape)}; its parameter is "
                f"torch.float32 of shape {self.layout.shape}"
            )

    def gradient(self) -> list[torch.Tensor] | None:
        """This rank's gradient as rectangles, in the order of the layout; None where there is none.

        A gradient that is placed as the parameter is (or partial where that is replicated) is read; another is redistributed first.
        """
        g = self.parameter.grad
        if g is None:
            return None
        fits = g.device_mesh == self._spec[0] and all(
            a == b or (isinstance(a, Partial) and isinstance(b, Replicate))
            for a, b in zip(g.placements, self._spec[1], strict=False)
        )
        if not fits:
            g = g.redistribute(self.parameter.device_mesh, self.parameter.placements)
        return self.parts_of(local_of(g))

    def put(self, session: Session, block: int) -> None:
        """Hands the gradient over, from host memory. REQUIRES: there is one."""
        for i, part in enumerate(self.gradient() or ()):
            dense = part.resolve_neg().contiguous()
            size = dense.numel() * dense.element_size()
            session.put(block + i, dense.data_ptr(), size)

    def copies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """On a GPU: the copies that hand the gradient over, as (to, from)."""
        parts = self.gradient() or []
        every = zip(self._gradients, parts, self._pushed, strict=True)
        return [(to, part) for to, part, pushed in every if pushed and part.numel() > 0]

    # ---- state

    def fetch(self, session: Session, block: int, field: int) -> DTensor:
        """A state field, placed like the parameter: this rank's part of it travels."""
        value = torch.zeros_like(self.parameter.detach())
        for i, part in enumerate(self.parts_of(value._local_tensor)):
            read = torch.empty(part.shape, dtype=torch.float32)
            session.fetch_block_state(block + i, field, read.data_ptr(), 4 * read.numel())
            part.copy_(read)
        return value

    def push(self, session: Session, block: int, field: int, value: torch.Tensor) -> None:
        """Sets this rank's part of a state field. ``value`` as `like` takes it."""
        local = local_of(like(self.parameter, value))
        for i, part in enumerate(self.parts_of(local)):
            dense = part.to(device="cpu", dtype=torch.float32).contiguous()
            session.push_block_state(block + i, field, dense.data_ptr(), 4 * dense.numel())


def like(p: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value``, of the whole parameter's shape, placed as ``p`` is: as it comes, redistributed, or cut out of a plain tensor.

    Collective where it is a DTensor that is placed otherwise.
    """
    if not is_sharded(p):
        return value.full_tensor() if is_sharded(value) else value
    if is_sharded(value):
        if value.device_mesh == p.device_mesh and value.placements == p.placements:
            return value
        value = value.full_tensor()
    placed = torch.zeros_like(p.detach(), dtype=value.dtype)
    layout = layout_of(p, "the parameter")
    for rectangle in layout.rectangles:
        part, source = placed._local_tensor, value
        for d, length in enumerate(rectangle.extent):
            part = part.narrow(d, rectangle.local[d], length)
            source = source.narrow(d, rectangle.offset[d], length)
        part.copy_(source)
    return placed


def _replicas_of(p: DTensor, name: str) -> tuple[int, float]:
    """Kind and divisor of the copies, read from the gradient's placements: partial ones are summed by the owner."""
    g = p.grad
    if g is None or not is_sharded(g):
        return lib.REPLICA_SAME, 1.0
    copies = [
        (p.device_mesh.size(d), g.placements[d])
        for d, placement in enumerate(p.placements)
        if isinstance(placement, Replicate) and p.device_mesh.size(d) > 1
    ]
    partial = [(size, kind) for size, kind in copies if isinstance(kind, Partial)]
    if not partial:
        return lib.REPLICA_SAME, 1.0
    kinds = {kind.reduce_op for _, kind in partial}
    if len(partial) < len(copies) or len(kinds) > 1 or not kinds <= {"sum", "avg"}:
        raise ValueError(
            f"{name} is placed as {p.placements} and its gradient as {g.placements}: copies must "
            "all be summed, all be averaged, or all be equal; redistribute the gradient first"
        )
    divisor = 1
    for size, _ in partial:
        divisor *= size
    return lib.REPLICA_SUM, float(divisor) if kinds == {"avg"} else 1.0
