"""An optimizer's parameters at a daemon: what is there, where in the slabs, and a step's way there and back."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import _library as lib
from . import device as devices
from . import dtensors
from ._session import Manifest, Outcome, Session
from .replicas import World

# Tensors are announced together until a bucket has this much: enough to be worth a message, small enough to start early.
BUCKET_BYTES = 4 << 20
# On a GPU a bucket costs a stream operation or two, and larger copies fill it better.
DEVICE_BUCKET_BYTES = 256 << 20
# One call into the library never takes longer, so that Ctrl-C is heard.
WAIT_SECONDS = 0.25


@dataclass
class Entry:
    """One parameter at the daemon. ``tensor`` and ``block`` are its index in the manifest, and its first block's."""

    parameter: torch.Tensor
    name: str
    group: int
    tensor: int
    block: int
    bucket: int = 0
    shape: tuple[int, ...] = ()
    view: torch.Tensor | None = None  # its place in the parameter slab, in its shape
    gradient: torch.Tensor | None = None  # on a GPU: its place in the gradient slab, if it has one
    adopted: bool = False  # the parameter lives in `view`; else it is copied there and back
    shard: dtensors.Shard | None = None  # of a DTensor: its places, in place of `view`

    @property
    def place(self) -> torch.Tensor:
        """REQUIRES: the entry is attached."""
        assert self.view is not None
        return self.view


def collect(
    param_groups: list[dict[str, Any]], name_of: Callable[[torch.Tensor, int, int], str]
) -> list[Entry]:
    """Parameters that can have gradients, each once, in the order of the groups.

    ValueError for what cannot be served, with name, type and place.
    """
    entries: list[Entry] = []
    seen: set[int] = set()
    blocks = 0
    for g, group in enumerate(param_groups):
        for i, p in enumerate(group["params"]):
            if id(p) in seen or p.numel() == 0 or not (p.requires_grad or p.grad is not None):
                continue
            seen.add(id(p))
            name = name_of(p, g, i)
            check_servable(p, name)
            shard = dtensors.Shard(p, name) if dtensors.is_sharded(p) else None
            entries.append(
                Entry(p, name, g, len(entries), blocks, shape=tuple(p.shape), shard=shard)
            )
            blocks += 1 if shard is None else len(shard.layout.rectangles)
    _check_together(entries)
    _check_apart(entries)
    bucket_bytes = DEVICE_BUCKET_BYTES if entries and entries[0].parameter.is_cuda else BUCKET_BYTES
    bucket, filled = 0, 0
    for entry in entries:
        if filled >= bucket_bytes:
            bucket, filled = bucket + 1, 0
        entry.bucket = bucket
        filled += entry.parameter.numel() * entry.parameter.element_size()
    return entries


def check_servable(p: torch.Tensor, name: str) -> None:
    """ValueError or RuntimeError for a parameter that the daemon cannot step."""
    if torch.is_complex(p):
        raise RuntimeError(f"Muon does not support complex parameters: {name} is {p.dtype}")
    if p.layout is not torch.strided:
        raise RuntimeError(f"Muon does not support sparse parameters: {name} is {p.layout}")
    if type(p).__name__ == "FlatParameter" or hasattr(p, "_is_flat_param"):
        raise ValueError(
            f"{name} is a flat parameter of FSDP1 (FullyShardedDataParallel): not served; use FSDP2 "
            "(torch.distributed.fsdp.fully_shard)"
        )
    if hasattr(p, "_st_info"):
        raise ValueError(
            f"{name} is a shard that DistributedDataParallel over tensor parallelism hides: not "
            "served; use fully_shard over a mesh of both"
        )
    local = dtensors.local_of(p)
    if type(local) not in (torch.Tensor, nn.Parameter):
        raise ValueError(
            f"{name} is held as a {type(local).__name__}: plain fp32 shards are served"
        )
    if p.dtype is not torch.float32:
        raise ValueError(
            f"{name} is {p.dtype}; this version serves torch.float32 parameters (keep fp32 "
            "parameters and use autocast for a 16-bit forward)"
        )
    if any(n > 1 and step == 0 for n, step in zip(local.shape, local.stride(), strict=True)):
        raise ValueError(
            f"{name} of shape {tuple(local.shape)} has strides {local.stride()}: elements share memory "
            "(expand); give it memory of its own with clone()"
        )
    if p.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is on {p.device}; parameters on cpu and cuda are served")


def _check_together(entries: list[Entry]) -> None:
    """A rank's shards lie in one slab, so in one memory."""
    for entry in entries[1:]:
        if entry.parameter.device != entries[0].parameter.device:
            raise ValueError(
                f"{entries[0].name} is on {entries[0].parameter.device}, {entry.name} on "
                f"{entry.parameter.device}; the parameters of one optimizer must be on one device"
            )


def _check_apart(entries: list[Entry]) -> None:
    """Two Parameters on one memory would be untied silently: refused, both named."""
    ends: list[tuple[int, int, str]] = []
    for entry in entries:
        p = dtensors.local_of(entry.parameter)
        if p.numel() == 0:
            continue
        reach = sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True)) + 1
        ends.append((p.data_ptr(), p.data_ptr() + reach * p.element_size(), entry.name))
    ends.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(ends):
        if begin < end:
            raise ValueError(
                f"{first} and {second} are two parameters on {end - begin} bytes of one memory: "
                "tie weights by using one Parameter in both places"
            )


def manifest_of(
    entries: list[Entry], param_groups: list[dict[str, Any]], world: World, job: str
) -> Manifest:
    """What the daemon is told of ``entries``."""
    uuid = devices.uuid_of(entries[0].parameter.device)
    manifest = Manifest(job, world.size, world.rank, entries[-1].bucket + 1, uuid)
    for g, group in enumerate(param_groups):
        if group["use_muon"]:
            table = group["ns_coefficients"]
            rows = table if isinstance(table, str) else [tuple(map(float, table))]
            if not isinstance(rows, str):
                rows = rows * int(group["ns_steps"])
            scale = lib.SCALES[group["adjust_lr_fn"] or "original"]
            manifest.add_muon_group(f"group{g}", rows, int(group["ns_steps"]), scale)
        else:
            manifest.add_adamw_group(f"group{g}")
    for entry in entries:
        shape = entry.shape or (1,)
        manifest.add_tensor(entry.name, shape, entry.group, entry.bucket)
        if entry.shard is None:
            manifest.add_whole_block(
                entry.tensor, world.kind, world.rank, world.size, world.divisor
            )
        else:
            entry.shard.add_to(manifest, entry.tensor)
    return manifest


class Attachment:
    """Entries of one session. Parameters are adopted here: their memory is the parameter slab."""

    def __init__(self, session: Session, entries: list[Entry]) -> None:
        self.session = session
        self.entries = entries
        self.by_parameter = {id(entry.parameter): entry for entry in entries}
        self._last_of_bucket = {entry.bucket: entry for entry in entries}
        self._put: list[Entry] = []  # what the open step has a gradient of
        self._sizes = [session.place(entry.block).size for entry in entries]
        self.device = entries[0].parameter.device
        self.on_device = self.device.type == "cuda"
        slab, gradients = session.slab(lib.SLAB_PARAMETER), session.slab(lib.SLAB_GRADIENT)
        records = dtensors.fsdp_records()
        for entry in entries:
            if entry.shard is not None:
                entry.shard.attach(session, entry.block, slab, gradients, records)
                self.adopt(entry)
                continue
            place = session.place(entry.block)
            entry.view = devices.slab_tensor(
                slab, place.parameter_offset, entry.shape, place.size, self.device
            )
            if self.on_device and place.push_gradient:
                entry.gradient = devices.slab_tensor(
                    gradients, place.gradient_offset, entry.shape, place.size, self.device
                )
            self.adopt(entry)
        if self.on_device:
            # The daemon reads the parameters on streams of its own: they are there before its first step.
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def adopt(self, entry: Entry) -> None:
        """Moves the parameter's values into its place, and, where strides allow it, the parameter."""
        p = entry.parameter
        if entry.shard is not None:
            entry.adopted = entry.shard.adopt()
            return
        entry.place.copy_(p)
        entry.adopted = p.is_contiguous()
        if entry.adopted:
            p.data = entry.place

    @staticmethod
    def _is_home(entry: Entry) -> bool:
        """Whether the parameter is adopted and still where it was put."""
        if not entry.adopted:
            return False
        if entry.shard is not None:
            return entry.shard.is_home()
        return entry.parameter.data_ptr() == entry.place.data_ptr()

    def check(self) -> None:
        """Everything a step needs, before any of it is handed over."""
        for entry in self.entries:
            p, g = entry.parameter, entry.parameter.grad
            if tuple(p.shape) != entry.shape:
                raise ValueError(
                    f"{entry.name} had shape {entry.shape} when the optimizer attached and has "
                    f"{tuple(p.shape)} now: make a new optimizer for the new parameter"
                )
            if not self._is_home(entry):
                check_servable(p, entry.name)
            if entry.shard is not None:
                entry.shard.check()
                continue
            if g is None:
                continue
            if g.is_sparse or g.layout is not torch.strided:
                raise RuntimeError(f"Muon does not support sparse gradients: {entry.name}.grad")
            if (
                g.dtype is not torch.float32
                or tuple(g.shape) != entry.shape
                or g.device != p.device
            ):
                raise ValueError(
                    f"{entry.name}.grad is {g.dtype} of shape {tuple(g.shape)} on {g.device}; its "
                    f"parameter is torch.float32 of shape {entry.shape} on {p.device}"
                )

    def refresh(self) -> None:
        """The parameters are the truth: what moved or is not adopted is copied to its place again."""
        for entry in self.entries:
            if not self._is_home(entry):
                self.adopt(entry)

    def put(self) -> None:
        """Hands the gradients over, bucket by bucket."""
        if self.on_device:
            self._put_on_stream()
            return
        session = self.session
        self._put = []
        for entry, size in zip(self.entries, self._sizes, strict=True):
            gradient = entry.parameter.grad
            if gradient is not None and entry.shard is not None:
                entry.shard.put(session, entry.block)
                self._put.append(entry)
            elif gradient is not None:
                dense = gradient.resolve_neg().contiguous()
                session.put(entry.block, dense.data_ptr(), size)
                self._put.append(entry)
            if self._last_of_bucket[entry.bucket] is entry:
                session.announce(entry.bucket)

    def _put_on_stream(self) -> None:
        """The same as one batched copy on the current stream; the host does not wait."""
        present = [entry for entry in self.entries if entry.parameter.grad is not None]
        self._put = present
        pushed = [(e.gradient, e.parameter.grad) for e in present if e.gradient is not None]
        blocks = []
        for entry in present:
            count = 1
            if entry.shard is not None:
                pushed += entry.shard.copies()
                count = len(entry.shard.layout.rectangles)
            blocks += range(entry.block, entry.block + count)
        if pushed:
            torch._foreach_copy_([to for to, _ in pushed], [of for _, of in pushed])
        self.session.placed((ctypes.c_int32 * len(blocks))(*blocks))

    def use_current_stream(self) -> None:
        """What is handed over from here on comes behind the work of torch's current stream."""
        self.session.use_stream(torch.cuda.current_stream(self.device).cuda_stream)

    @torch.no_grad()
    def take_on_stream(self) -> None:
        """The current stream waits for the committed step; what it runs next sees the new parameters."""
        self.session.wait_on_stream()
        self.take()

    def wait(self, deadline: Callable[[], bool]) -> Outcome | None:
        """The committed step's outcome; None once ``deadline`` says so."""
        while True:
            outcome = self.session.wait(WAIT_SECONDS)
            if outcome is not None or deadline():
                return outcome

    @torch.no_grad()
    def take(self) -> None:
        """After an applied step: new values for parameters that live elsewhere; autograd is told of all."""
        for entry in self._put:
            if entry.shard is not None:
                entry.shard.take(entry.adopted)
            elif entry.adopted:
                torch.autograd.graph.increment_version(entry.parameter)
            else:
                entry.parameter.copy_(entry.place)

    def fetch(self, p: torch.Tensor, field: int) -> torch.Tensor | None:
        """A copy of a state field, or None for a parameter that is not here."""
        entry = self.by_parameter.get(id(p))
        if entry is None:
            return None
        if entry.shard is not None and field != lib.STATE_STEP:
            return entry.shard.fetch(self.session, entry.block, field)
        if field == lib.STATE_STEP:
            value = torch.empty(1, dtype=torch.float64)
        else:
            value = torch.empty(entry.shape, dtype=torch.float32)
        size = value.numel() * value.element_size()
        self.session.fetch_state(entry.tensor, field, value.data_ptr(), size)
        return value if field == lib.STATE_STEP else value.to(self.device)

    def push(self, p: torch.Tensor, field: int, value: torch.Tensor) -> bool:
        """Sets a state field; False for a parameter that is not here."""
        entry = self.by_parameter.get(id(p))
        if entry is None:
            return False
        if entry.shard is not None and field != lib.STATE_STEP:
            entry.shard.push(self.session, entry.block, field, value)
            return True
        kind = torch.float64 if field == lib.STATE_STEP else torch.float32
        dense = value.to(device="cpu", dtype=kind).contiguous()
        size = dense.numel() * dense.element_size()
        self.session.push_state(entry.tensor, field, dense.data_ptr(), size)
        return True

    @torch.no_grad()
    def release(self) -> None:
        """Gives the parameters memory of their own again."""
        for entry in self.entries:
            if entry.shard is not None:
                if entry.adopted:
                    entry.shard.release()
            elif self._is_home(entry):
                entry.parameter.data = entry.place.clone()
        if self.on_device:
            torch.cuda.synchronize(self.device)  # nothing works on the slabs when they go
        for entry in self.entries:
            entry.view = entry.gradient = None
            if entry.shard is not None:
                entry.shard.detach()
