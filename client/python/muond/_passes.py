"""Measure and AdamW of libmuond_kernels.so through ctypes, on lists of tensors: what an engine needs besides ``muond.ops``."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch

from . import ops
from ._library import Scalars

MEASUREMENT_BYTES = 168
ADAMW_WORKSPACE_BYTES = 256


class _AdamWOptions(ops._Sized):
    _fields_: ClassVar = [
        ("struct_size", ctypes.c_size_t),
        ("lr", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("beta1", ctypes.c_double),
        ("beta2", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("gradient_scale", ctypes.c_double),
    ]


class _AdamWItem(ctypes.Structure):
    _fields_: ClassVar = [
        ("struct_size", ctypes.c_size_t),
        ("gradient", ops._Matrix),
        ("parameter", ops._Matrix),
        ("exp_avg", ctypes.c_void_p),
        ("exp_avg_sq", ctypes.c_void_p),
        ("step", ctypes.c_void_p),
    ]


@functools.cache
def load() -> ctypes.CDLL:
    """The library of ``muond.ops``, with the functions of interface 1.2."""
    library = ops.load_library()
    pointer, u64, size = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
    try:
        library.muond_kernels_measure.argtypes = [
            pointer, pointer, ctypes.POINTER(ops._Matrix), size, ctypes.c_int32, pointer,
        ]  # fmt: skip
        library.muond_kernels_measured.argtypes = [pointer, size, ctypes.POINTER(u64)]
        library.muond_kernels_measured.restype = ctypes.c_double
        library.muond_kernels_adamw_step.argtypes = [
            pointer, pointer, ctypes.POINTER(_AdamWOptions), ctypes.POINTER(_AdamWItem), size,
            pointer, u64,
        ]  # fmt: skip
    except AttributeError as error:
        raise ImportError(
            f"{library._name} is of an older interface than 1.2, which the in-process engine needs"
        ) from error
    return library


def _row(tensor: torch.Tensor) -> torch.Tensor:
    """A dense tensor as one row."""
    return tensor.view(1, -1)


class Measure:
    """Whether gradients are finite, and their norm. For tensors of the same sizes at every call."""

    def __init__(self, call: ops._Call, like: Sequence[torch.Tensor]) -> None:
        self._call = call
        self._matrices = ops._array([_row(tensor) for tensor in like])
        self._results = torch.zeros(
            len(like) * MEASUREMENT_BYTES // 8, dtype=torch.int64, pin_memory=like[0].is_cuda
        )
        self._non_finite = (ctypes.c_uint64 * len(like))()

    def __call__(
        self, gradients: Sequence[torch.Tensor], want_norm: bool
    ) -> tuple[list[int], float]:
        """NaN or Inf elements of each, and the sum of all squares (0 where not wanted). The host waits."""
        for matrix, gradient in zip(self._matrices, gradients, strict=True):
            matrix.data = gradient.data_ptr()
        library, address, count = load(), self._results.data_ptr(), len(self._matrices)
        stream = stream_of(self._call.device)
        ops._check(
            library.muond_kernels_measure(
                self._call.engine, stream, self._matrices, count, int(want_norm), address
            )
        )
        if stream is not None:
            torch.cuda.current_stream(self._call.device).synchronize()
        squares = library.muond_kernels_measured(address, count, self._non_finite)
        return list(self._non_finite), squares


class AdamW:
    """One group's step, for a list of (parameter, exp_avg, exp_avg_sq, step): dense fp32 tensors, and float64 counts."""

    def __init__(
        self, call: ops._Call, tensors: Sequence[tuple[torch.Tensor, ...]], like: Sequence
    ) -> None:
        self._call, self._kept = call, list(tensors)
        self._items = (_AdamWItem * len(tensors))()
        for item, (p, m, v, step), g in zip(self._items, tensors, like, strict=True):
            item.struct_size = ctypes.sizeof(_AdamWItem)
            ops._fill(item.gradient, _row(g))
            ops._fill(item.parameter, _row(p))
            item.exp_avg, item.exp_avg_sq, item.step = m.data_ptr(), v.data_ptr(), step.data_ptr()
        self._memory, self._workspace = call.workspace(ADAMW_WORKSPACE_BYTES)

    def prepared(
        self, gradients: Sequence[torch.Tensor], scalars: Scalars, gradient_scale: float
    ) -> Callable[[], int]:
        """The step as one C call, which returns a status."""
        for item, gradient in zip(self._items, gradients, strict=True):
            item.gradient.data = gradient.data_ptr()
        options = _AdamWOptions(
            lr=scalars.lr,
            weight_decay=scalars.weight_decay,
            beta1=scalars.beta1,
            beta2=scalars.beta2,
            eps=scalars.eps,
            gradient_scale=gradient_scale,
        )
        return functools.partial(
            load().muond_kernels_adamw_step,
            self._call.engine,
            stream_of(self._call.device),
            options,
            self._items,
            len(self._items),
            self._workspace,
            ADAMW_WORKSPACE_BYTES,
        )


def stream_of(device: torch.device) -> int | None:
    """torch's current stream there, as the library takes it."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
