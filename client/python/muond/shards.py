"""What a rank holds of a tensor: placements on a mesh -> rectangles. A pure function; no torch here.

A mesh dimension cuts a tensor dimension as ``torch.chunk`` does: pieces of ceil(n / parts), the last ones smaller or empty. Where several cut the
same tensor dimension, the first of the mesh cuts first, except that a strided one (FSDP around tensor parallelism) cuts last: it cuts what the
others have left. torch's own ``compute_local_shape_and_global_offset`` gets the offsets of that wrong for uneven rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS_MAX = 64  # of one tensor on one rank
# A run of indices along one dimension: begin, length.
Run = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """One dimension of a mesh as one tensor sees it: ``part`` of ``parts``.

    ``cuts``: the tensor dimension that it cuts, None for copies. ``stride``: into how many pieces others are said to have cut that dimension
    before (FSDP's _StridedShard); 1 where nothing is said.
    """

    parts: int
    part: int
    cuts: int | None = None
    stride: int = 1


@dataclass(frozen=True)
class Rectangle:
    """``extent`` of a tensor at ``offset``; in the rank's own tensor it lies at ``local``."""

    offset: tuple[int, ...]
    extent: tuple[int, ...]
    local: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A rank's part of a tensor of ``shape``: one rectangle at least (an empty one where it holds nothing), as copy ``replica`` of ``replicas``."""

    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    rectangles: tuple[Rectangle, ...]
    replica: int
    replicas: int


def layout(shape: Sequence[int], axes: Sequence[Axis]) -> Layout:
    """What the rank at ``axes`` of the mesh holds. ValueError for more than BLOCKS_MAX rectangles."""
    shape = tuple(shape)
    dims = [_runs(side, [a for a in axes if a.cuts == d], axes) for d, side in enumerate(shape)]
    local_shape = tuple(sum(length for _, length in runs) for runs in dims)
    replica, replicas = 0, 1
    for axis in axes:
        if axis.cuts is None:
            replica, replicas = replica * axis.parts + axis.part, replicas * axis.parts
    if 0 in local_shape:
        nothing = (0,) * len(shape)
        rectangles: tuple[Rectangle, ...] = (Rectangle(nothing, nothing, nothing),)
    else:
        count = math.prod(len(runs) for runs in dims)
        if count > BLOCKS_MAX:
            raise ValueError(
                f"a shard of shape {local_shape} out of {shape} falls into {count} rectangles; "
                f"at most {BLOCKS_MAX} are served"
            )
        rectangles = tuple(_rectangle(choice) for choice in itertools.product(*map(_placed, dims)))
    return Layout(shape, local_shape, rectangles, replica, replicas)


def _placed(runs: list[Run]) -> list[tuple[int, int, int]]:
    """(begin, length, where it begins in the rank's own dimension) of each run."""
    ends = itertools.accumulate((length for _, length in runs), initial=0)
    return [(begin, length, at) for (begin, length), at in zip(runs, ends, strict=False)]


def _rectangle(choice: tuple[tuple[int, int, int], ...]) -> Rectangle:
    columns = tuple(zip(*choice, strict=True)) if choice else ((), (), ())
    return Rectangle(*columns)


def _runs(side: int, cutting: list[Axis], axes: Sequence[Axis]) -> list[Run]:
    """The runs of 0 .. side that are left to the rank, in the order of its own tensor."""
    runs = [(0, side)]
    strided = [axis for axis in cutting if axis.stride > 1]
    plain = [axis for axis in cutting if axis.stride == 1]
    if len(strided) == 1:
        after = itertools.dropwhile(lambda axis: axis is not strided[0], axes)
        others = math.prod(axis.parts for axis in after if any(axis is one for one in plain))
        if others == strided[0].stride:  # nested: what the others have left is cut as a whole
            for axis in [*plain, strided[0]]:
                runs = _cut(runs, axis.parts, axis.part)
            return runs
    for axis in cutting:
        whole, runs = runs, []
        for piece in range(axis.stride):
            runs += _cut(_cut(whole, axis.stride, piece), axis.parts, axis.part)
        runs = _joined(runs)
    return runs


def _cut(runs: list[Run], parts: int, part: int) -> list[Run]:
    """The ``part``-th of ``parts`` chunks of what ``runs`` hold."""
    total = sum(length for _, length in runs)
    size = -(-total // parts)
    first = min(part * size, total)
    last = min(first + size, total)
    taken, at = [], 0
    for begin, length in runs:
        low, high = max(first, at), min(last, at + length)
        if low < high:
            taken.append((begin + low - at, high - low))
        at += length
    return taken


def _joined(runs: list[Run]) -> list[Run]:
    joined: list[Run] = []
    for begin, length in runs:
        if joined and sum(joined[-1]) == begin:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((begin, length))
    return joined
