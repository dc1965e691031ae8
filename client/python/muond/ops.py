"""The optimizer's mathematics on torch tensors, without a daemon.

``newton_schulz`` orthogonalises a matrix or a list of them, ``muon_step`` does the whole Muon step of a list.
A list is one grouped call: matrices of any shapes run together, and each has the bits that it has alone.
CUDA tensors are used in place, on torch's current stream; CPU tensors are done when the call returns.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import torch

__all__ = ["Coefficients", "load_library", "muon_step", "newton_schulz", "workspace_bytes"]

Coefficients = str | Sequence[float] | Sequence[Sequence[float]]

ABI_MAJOR = 1
DEFAULT_WORKSPACE = 2 << 30

_DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_SCALES = {
    None: 1,
    "original": 1,
    "match_rms_adamw": 2,
    "spectral_unclamped": 3,
    "sqrt_ratio": 3,
    "sqrt_max": 4,
    "none": 5,
}
_ERRORS = {3: ValueError, 5: ValueError, 8: torch.cuda.OutOfMemoryError}


class _Sized(ctypes.Structure):
    def __init__(self, *arguments: object, **fields: object) -> None:
        super().__init__(*arguments, **fields)
        self.struct_size = ctypes.sizeof(self)


class _Options(_Sized):
    _fields_ = [("struct_size", ctypes.c_size_t), ("cuda_device", ctypes.c_int32)]


class _Table(_Sized):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("rows", ctypes.POINTER(ctypes.c_double)),
        ("row_count", ctypes.c_size_t),
        ("steps", ctypes.c_int32),
    ]


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("ld", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    ]


class _MuonOptions(_Sized):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("lr", ctypes.c_double),
        ("weight_decay", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("gradient_scale", ctypes.c_double),
        ("nesterov", ctypes.c_int32),
        ("scale", ctypes.c_int32),
    ]


class _MuonItem(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("gradient", _Matrix),
        ("parameter", _Matrix),
        ("momentum", ctypes.c_void_p),
    ]


@functools.cache
def load_library() -> ctypes.CDLL:
    """``MUOND_KERNELS_LIBRARY``, else the libmuond_kernels.so inside this package."""
    named = os.environ.get("MUOND_KERNELS_LIBRARY")
    path = Path(named) if named else Path(__file__).parent / "libmuond_kernels.so"
    if not path.exists():
        raise ImportError(
            f"{path} is not there: install the package with its libraries, or point "
            "MUOND_KERNELS_LIBRARY at libmuond_kernels.so of a build"
        )
    library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
    pointer, u64, size = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
    matrices, items = ctypes.POINTER(_Matrix), ctypes.POINTER(_MuonItem)
    table, muon = ctypes.POINTER(_Table), ctypes.POINTER(_MuonOptions)
    needed = ctypes.POINTER(u64)
    prototypes = {
        "create": [ctypes.POINTER(_Options), ctypes.POINTER(pointer)],
        "newton_schulz_workspace": [pointer, table, matrices, size, u64, needed],
        "newton_schulz": [
            pointer, pointer, table, ctypes.c_double, matrices, matrices, size, pointer, u64,
        ],
        "muon_step_workspace": [pointer, table, items, size, u64, needed],
        "muon_step": [pointer, pointer, table, muon, items, size, pointer, u64],
    }  # fmt: skip
    for name, arguments in prototypes.items():
        function = getattr(library, f"muond_kernels_{name}")
        function.restype, function.argtypes = ctypes.c_int32, arguments
    library.muond_kernels_message.restype = ctypes.c_char_p
    major, minor = ctypes.c_int32(), ctypes.c_int32()
    library.muond_kernels_abi_version(ctypes.byref(major), ctypes.byref(minor))
    if major.value != ABI_MAJOR:
        raise ImportError(
            f"{path} has interface {major.value}.{minor.value}, this package wants {ABI_MAJOR}.x"
        )
    return library


def _check(status: int) -> None:
    if status:
        message = load_library().muond_kernels_message().decode()
        raise _ERRORS.get(status, RuntimeError)(message)


@functools.cache
def _engine(cuda_device: int) -> ctypes.c_void_p:
    engine = ctypes.c_void_p()
    options = _Options(cuda_device=cuda_device)
    _check(load_library().muond_kernels_create(ctypes.byref(options), ctypes.byref(engine)))
    return engine


def _table(coefficients: Coefficients, steps: int | None) -> _Table:
    wanted = 0 if steps is None else steps
    if steps is not None and steps <= 0:
        raise ValueError(f"steps is {steps}; at least one is needed")
    if isinstance(coefficients, str):
        return _Table(name=coefficients.encode(), steps=wanted)
    values = list(coefficients)
    if values and not isinstance(values[0], Sequence):
        values = [values]  # one (a, b, c) for every step
    if not values or any(len(row) != 3 for row in values):
        raise ValueError(
            f"coefficients must be a table's name, (a, b, c), or a list of those; got {coefficients!r}"
        )
    flat = [float(value) for row in values for value in row]
    rows = (ctypes.c_double * len(flat))(*flat)
    table = _Table(rows=rows, row_count=len(values), steps=wanted)
    table.keep_alive = rows
    return table


def _matrices(tensor: torch.Tensor, what: str) -> list[torch.Tensor]:
    """The 2-D matrices of a tensor: itself, or each of a stack's. Views only."""
    if tensor.dtype not in _DTYPES:
        raise TypeError(
            f"{what} has dtype {tensor.dtype}; float32, bfloat16 and float16 are supported"
        )
    if tensor.dim() not in (2, 3):
        raise ValueError(
            f"{what} has shape {tuple(tensor.shape)}; a matrix or a stack of matrices is needed"
        )
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{what} has strides {tensor.stride()}; its rows must be contiguous")
    return list(tensor.unbind(0)) if tensor.dim() == 3 else [tensor]


def _fill(slot: _Matrix, matrix: torch.Tensor) -> None:
    slot.struct_size = ctypes.sizeof(_Matrix)
    slot.data = matrix.data_ptr()
    slot.rows, slot.cols = matrix.shape
    slot.ld = matrix.stride(0) if matrix.shape[0] > 1 else matrix.shape[1]
    slot.dtype = _DTYPES[matrix.dtype]


def _array(matrices: Sequence[torch.Tensor]) -> ctypes.Array[_Matrix]:
    array = (_Matrix * len(matrices))()
    for slot, matrix in zip(array, matrices, strict=True):
        _fill(slot, matrix)
    return array


def _one_device(tensors: Sequence[torch.Tensor]) -> torch.device:
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        raise ValueError(
            f"all tensors of a call must be on one device; these are on {sorted(map(str, devices))}"
        )
    device = devices.pop()
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device} is neither a CPU nor a CUDA device")
    return device


class _Call:
    """The device, stream and workspace of one call."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.device = device
        self.engine = _engine(device.index if cuda else -1)
        self.stream = torch.cuda.current_stream(device).cuda_stream if cuda else None

    def workspace(self, size_bytes: int) -> tuple[torch.Tensor, int]:
        # 256 bytes of slack: torch aligns CPU memory to 64. On CUDA the caching allocator keeps stream order.
        memory = torch.empty(size_bytes + 256, dtype=torch.uint8, device=self.device)
        return memory, (memory.data_ptr() + 255) // 256 * 256


def _to_list(tensors: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)


@torch.no_grad()
def newton_schulz(
    tensors: torch.Tensor | Sequence[torch.Tensor],
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    *,
    eps: float = 1e-7,
    out: torch.Tensor | Sequence[torch.Tensor] | None = None,
    workspace_limit: int = DEFAULT_WORKSPACE,
) -> torch.Tensor | list[torch.Tensor]:
    """Orthogonalise: x / max(||x||, eps), then ``steps`` times x <- a x + (b A + c A^2) x with A = x x^T.

    tensors: [m, n], or stacks [b, m, n] (each matrix of a stack for itself), or a list of those.
    coefficients: a table's name ("jordan" is torch.optim.Muon's), one (a, b, c), or a list of those.
    steps: None takes the table's own count; more repeats the last row.
    out: where the results go, of the same shapes; may be the inputs. Default: new tensors of the inputs' dtypes.
    workspace_limit: bytes of temporary memory to stay within where running in rounds can.
    Raises ValueError for an unknown table, shapes or strides that do not fit; nothing is changed then.
    """
    inputs = _to_list(tensors)
    if not inputs:
        return []
    results = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs]
    if out is not None:
        results = _to_list(out)
        if [r.shape for r in results] != [x.shape for x in inputs]:
            raise ValueError("out must have the shapes of the inputs")
    call = _Call(_one_device(inputs + results))
    sources = _array([m for i, x in enumerate(inputs) for m in _matrices(x, f"tensor {i}")])
    targets = _array([m for i, x in enumerate(results) for m in _matrices(x, f"out {i}")])
    table = _table(coefficients, steps)
    library, needed = load_library(), ctypes.c_uint64()
    _check(
        library.muond_kernels_newton_schulz_workspace(
            call.engine,
            ctypes.byref(table),
            sources,
            len(sources),
            workspace_limit,
            ctypes.byref(needed),
        )
    )
    memory, address = call.workspace(needed.value)
    _check(
        library.muond_kernels_newton_schulz(
            call.engine,
            call.stream,
            ctypes.byref(table),
            eps,
            sources,
            targets,
            len(sources),
            address,
            needed,
        )
    )
    del memory
    return results[0] if isinstance(tensors, torch.Tensor) else results


def _items(
    parameters: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    momenta: Sequence[torch.Tensor],
) -> ctypes.Array[_MuonItem]:
    if not len(parameters) == len(gradients) == len(momenta):
        raise ValueError(
            f"{len(parameters)} parameters, {len(gradients)} gradients, {len(momenta)} momentum buffers"
        )
    triples = []
    for i, (p, g, m) in enumerate(zip(parameters, gradients, momenta, strict=True)):
        if not p.shape == g.shape == m.shape:
            raise ValueError(
                f"item {i}: shapes {tuple(p.shape)}, {tuple(g.shape)}, {tuple(m.shape)} differ"
            )
        if m.dtype != torch.float32 or not m.is_contiguous():
            raise ValueError(f"momentum buffer {i} must be contiguous float32")
        views = (
            _matrices(p, f"parameter {i}"),
            _matrices(g, f"gradient {i}"),
            _matrices(m, f"momentum {i}"),
        )
        triples.extend(zip(*views, strict=True))
    items = (_MuonItem * len(triples))()
    for item, (p, g, m) in zip(items, triples, strict=True):
        item.struct_size = ctypes.sizeof(_MuonItem)
        _fill(item.gradient, g)
        _fill(item.parameter, p)
        item.momentum = m.data_ptr()
    return items


@torch.no_grad()
def muon_step(
    parameters: torch.Tensor | Sequence[torch.Tensor],
    gradients: torch.Tensor | Sequence[torch.Tensor],
    momentum_buffers: torch.Tensor | Sequence[torch.Tensor],
    *,
    lr: float,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    eps: float = 1e-7,
    adjust_lr_fn: str | None = None,
    gradient_scale: float = 1.0,
    workspace_limit: int = DEFAULT_WORKSPACE,
) -> None:
    """One Muon step of a list: gradients in; parameters and momentum buffers (float32) change in place.

    Defaults and formulas are torch.optim.Muon's: the momentum is an exponential average, decay is decoupled, and the
    update is scaled by ``adjust_lr_fn`` ("original", "match_rms_adamw", "spectral_unclamped", "sqrt_max", "none").
    gradient_scale multiplies the gradients first: a clip factor, or one over a loss scale.
    Tensors are [m, n] or stacks [b, m, n]; everything is checked before anything is changed.
    """
    if adjust_lr_fn not in _SCALES:
        raise ValueError(
            f"adjust_lr_fn is {adjust_lr_fn!r}; known are {sorted(filter(None, _SCALES))}"
        )
    p, g, m = _to_list(parameters), _to_list(gradients), _to_list(momentum_buffers)
    if not p:
        return
    call = _Call(_one_device(p + g + m))
    items = _items(p, g, m)
    table = _table(coefficients, steps)
    options = _MuonOptions(
        lr=float(lr), weight_decay=weight_decay, momentum=momentum, eps=eps, gradient_scale=gradient_scale,
        nesterov=int(nesterov), scale=_SCALES[adjust_lr_fn],
    )  # fmt: skip
    library, needed = load_library(), ctypes.c_uint64()
    _check(
        library.muond_kernels_muon_step_workspace(
            call.engine,
            ctypes.byref(table),
            items,
            len(items),
            workspace_limit,
            ctypes.byref(needed),
        )
    )
    memory, address = call.workspace(needed.value)
    _check(
        library.muond_kernels_muon_step(
            call.engine,
            call.stream,
            ctypes.byref(table),
            ctypes.byref(options),
            items,
            len(items),
            address,
            needed,
        )
    )
    del memory


def workspace_bytes(
    tensors: torch.Tensor | Sequence[torch.Tensor],
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    workspace_limit: int = DEFAULT_WORKSPACE,
) -> int:
    """The temporary memory that ``newton_schulz`` takes for these tensors, in bytes."""
    inputs = _to_list(tensors)
    if not inputs:
        return 0
    call = _Call(_one_device(inputs))
    sources = _array([m for i, x in enumerate(inputs) for m in _matrices(x, f"tensor {i}")])
    needed, table = ctypes.c_uint64(), _table(coefficients, steps)
    _check(
        load_library().muond_kernels_newton_schulz_workspace(
            call.engine,
            ctypes.byref(table),
            sources,
            len(sources),
            workspace_limit,
            ctypes.byref(needed),
        )
    )
    return needed.value
