"""Parameters on a GPU: which one it is for the daemon, and tensors over device slabs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ._session import Slab


def uuid_of(device: torch.device) -> str | None:
    """The name that the daemon knows it by ("GPU-..."), whatever its number is here; None for host memory."""
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"


def daemon_arguments(uuids: Iterable[str | None]) -> list[str]:
    """Flags for a daemon that serves ranks on these devices and touches no other."""
    gpus = sorted({uuid for uuid in uuids if uuid is not None})
    if not gpus:
        return ["--backend", "cpu"]
    return ["--backend", "cuda", "--cuda-devices", ",".join(gpus)]


class _Span:
    """Device memory as ``__cuda_array_interface__`` tells it; keeps the slab mapped."""

    def __init__(self, slab: Slab, offset: int, elements: int) -> None:
        self._slab = slab
        self.__cuda_array_interface__ = {
            "shape": (elements,),
            "typestr": "<f4",
            "data": (slab.address + offset, False),
            "strides": None,
            "version": 3,
            "stream": None,  # order is the caller's: cells, on its own stream
        }


def slab_tensor(
    slab: Slab, offset: int, shape: Iterable[int], size: int, device: torch.device
) -> torch.Tensor:
    """An fp32 tensor of ``shape`` over ``size`` bytes at ``offset``, in host or device memory."""
    shape = tuple(shape)
    if device.type != "cuda":
        return torch.frombuffer(slab.buffer(offset, size), dtype=torch.float32).view(shape)
    if offset < 0 or size != 4 * math.prod(shape) or offset + size > slab.size:
        raise ValueError(f"bytes {offset} to {offset + size} of a slab of {slab.size}")
    span = _Span(slab, offset, math.prod(shape))
    return torch.as_tensor(span, device=device).view(shape)
