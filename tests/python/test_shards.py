"""Placements to rectangles, against tensors of indices that torch itself cuts."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from muond.shards import Axis, Layout, layout


def indices(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.arange(math.prod(shape)).reshape(shape)


def chunk(t: torch.Tensor, parts: int, part: int, dim: int) -> torch.Tensor:
    """torch.chunk, with empty chunks where it gives fewer."""
    chunks = t.chunk(parts, dim) if t.shape[dim] else (t,)
    return chunks[part] if part < len(chunks) else t.narrow(dim, 0, 0)


def held(one: Layout) -> torch.Tensor:
    """The indices that a layout says the rank holds, in the order of its own tensor."""
    local = torch.full(one.local_shape, -1)
    for r in one.rectangles:
        here = tuple(slice(a, a + n) for a, n in zip(r.local, r.extent, strict=True))
        there = tuple(slice(a, a + n) for a, n in zip(r.offset, r.extent, strict=True))
        if local.numel():
            local[here] = indices(one.shape)[there]
    return local


def test_a_rank_holds_what_torch_chunk_leaves_it():
    random.seed(4)
    for _ in range(400):
        shape = tuple(random.randint(1, 13) for _ in range(random.randint(1, 3)))
        dim = random.randrange(len(shape))
        parts = random.randint(1, 6)
        for part in range(parts):
            one = layout(shape, [Axis(parts, part, dim)])
            assert len(one.rectangles) == 1
            assert torch.equal(held(one), chunk(indices(shape), parts, part, dim))


def test_fsdp_cuts_what_tensor_parallelism_has_left():
    random.seed(5)
    for _ in range(300):
        rows, columns = random.randint(1, 40), random.randint(1, 9)
        fsdp, tp, dim = random.randint(1, 5), random.randint(1, 4), random.randrange(2)
        for f, t in itertools.product(range(fsdp), range(tp)):
            axes = [Axis(fsdp, f, 0, tp if dim == 0 else 1), Axis(tp, t, dim)]
            one = layout((rows, columns), axes)
            expected = chunk(chunk(indices((rows, columns)), tp, t, dim), fsdp, f, 0)
            assert len(one.rectangles) == 1
            assert torch.equal(held(one), expected), (rows, columns, fsdp, tp, dim, f, t)


def test_nine_rows_of_which_torch_misplaces_the_last():
    """fsdp 4, tp 2: (3, 0) has none, (3, 1) has row 8; torch's own offsets say it is the other way round."""
    rows = {
        (f, t): held(layout((9, 1), [Axis(4, f, 0, 2), Axis(2, t, 0)])).flatten().tolist()
        for f, t in itertools.product(range(4), range(2))
    }
    assert rows == {
        (0, 0): [0, 1], (1, 0): [2, 3], (2, 0): [4], (3, 0): [],
        (0, 1): [5], (1, 1): [6], (2, 1): [7], (3, 1): [8],
    }  # fmt: skip


def test_mesh_dimensions_cut_one_after_the_other():
    for a, b in itertools.product(range(2), range(3)):
        one = layout((17,), [Axis(2, a, 0), Axis(3, b, 0)])
        assert torch.equal(held(one), chunk(chunk(indices((17,)), 2, a, 0), 3, b, 0))


def test_a_bare_strided_shard_is_several_rectangles():
    first = layout((24, 2), [Axis(4, 0, 0, 3)])
    assert [r.offset[0] for r in first.rectangles] == [0, 8, 16]
    assert first.local_shape == (6, 2)
    strided = pytest.importorskip("torch.distributed.tensor.placement_types")._StridedShard
    for rows, parts, stride in itertools.product((5, 9, 24, 31), (2, 3, 4), (2, 3)):
        pieces, _ = strided(0, split_factor=stride)._split_tensor(
            indices((rows, 2)), parts, with_padding=False
        )
        for part, expected in enumerate(pieces):
            one = layout((rows, 2), [Axis(parts, part, 0, stride)])
            assert torch.equal(held(one).flatten(), expected.flatten()), (rows, parts, stride, part)


def test_too_many_rectangles_are_refused_with_their_number():
    with pytest.raises(ValueError, match=r"shape \(65, 2\) out of \(130, 2\) falls into 65"):
        layout((130, 2), [Axis(2, 0, 0, 65)])


def test_copies_are_numbered_in_the_order_of_the_mesh():
    numbers = [
        (layout((4, 4), [Axis(2, r, None), Axis(2, s, 0), Axis(3, c, None)]).replica)
        for r, s, c in itertools.product(range(2), range(2), range(3))
    ]
    assert numbers == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert layout((4, 4), [Axis(2, 0, None), Axis(3, 0, None)]).replicas == 6


def test_a_scalar_and_a_rank_with_nothing():
    assert held(layout((), [Axis(2, 1, None)])).item() == 0
    one = layout((3, 5), [Axis(4, 3, 0)])
    assert one.local_shape == (0, 5)
    assert [r.extent for r in one.rectangles] == [(0, 0)]
