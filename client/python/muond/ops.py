"""The optimizer's mathematics on torch tensors, without a daemon.

``newton_schulz`` orthogonalises a matrix or a list of them, ``muon_step`` does the whole Muon step of a list.
A list is one grouped call: matrices of any shapes run together, and each has the bits that it has alone.
CUDA tensors are used in place, on torch's current stream; CPU tensors are done when the call returns.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import os
import struct
import weakref
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

__all__ = [
    "Coefficients", "MuonPlan", "load_library", "muon_step", "newton_schulz", "release", "workspace_bytes",
]  # fmt: skip

Coefficients = str | Sequence[float] | Sequence[Sequence[float]]

ABI_MAJOR, ABI_MINOR = 1, 1
DEFAULT_WORKSPACE = 2 << 30

_DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_SCALES = {
    None: 1, "original": 1, "match_rms_adamw": 2, "spectral_unclamped": 3, "sqrt_ratio": 3, "sqrt_max": 4, "none": 5,
}  # fmt: skip
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
        ("lr_at", ctypes.c_void_p),
        ("gradient_scale_at", ctypes.c_void_p),
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
    """``MUOND_KERNELS_LIBRARY``, else the libmuond_kernels.so inside this package, or of a checkout's newest build."""
    named = os.environ.get("MUOND_KERNELS_LIBRARY")
    path = Path(named) if named else Path(__file__).resolve().parent / "libmuond_kernels.so"
    if not named and not path.exists():  # a checkout: its newest build
        builds = path.parents[3].glob("build/*/kernels/capi/libmuond_kernels.so")
        path = max(builds, key=lambda found: found.stat().st_mtime, default=path)
    if not path.exists():
        raise ImportError(
            f"{path} is not there: install the package with its libraries, or point "
            "MUOND_KERNELS_LIBRARY at libmuond_kernels.so of a build"
        )
    library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
    major, minor = ctypes.c_int32(), ctypes.c_int32()
    library.muond_kernels_abi_version(ctypes.byref(major), ctypes.byref(minor))
    if major.value != ABI_MAJOR or minor.value < ABI_MINOR:
        raise ImportError(
            f"{path} has interface {major.value}.{minor.value}, this package wants {ABI_MAJOR}.{ABI_MINOR}"
        )
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
        "muon_plan_workspace": [pointer, table, items, size, size, u64, needed],
        "muon_plan_create": [
            pointer, table, items, ctypes.POINTER(ctypes.c_uint32), size, size, pointer, u64,
            ctypes.POINTER(pointer),
        ],
        "muon_plan_step": [pointer, pointer, muon, pointer, size],
    }  # fmt: skip
    for name, arguments in prototypes.items():
        function = getattr(library, f"muond_kernels_{name}")
        function.restype, function.argtypes = ctypes.c_int32, arguments
    library.muond_kernels_muon_plan_destroy.restype = None
    library.muond_kernels_muon_plan_destroy.argtypes = [pointer]
    library.muond_kernels_message.restype = ctypes.c_char_p
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
            call.engine, ctypes.byref(table), sources, len(sources), workspace_limit,
            ctypes.byref(needed),
        )
    )  # fmt: skip
    memory, address = call.workspace(needed.value)
    _check(
        library.muond_kernels_newton_schulz(
            call.engine, call.stream, ctypes.byref(table), eps, sources, targets, len(sources),
            address, needed,
        )
    )  # fmt: skip
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


def _muon_options(
    lr: float | torch.Tensor,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    eps: float,
    adjust_lr_fn: str | None,
    gradient_scale: float | torch.Tensor,
) -> _MuonOptions:
    """Values on a CUDA device stay there: the work reads them when it runs."""
    options = _MuonOptions(
        weight_decay=weight_decay, momentum=momentum, eps=eps, nesterov=int(nesterov), scale=_SCALES[adjust_lr_fn]
    )  # fmt: skip
    options.keep_alive = []
    for name, value in (("lr", lr), ("gradient_scale", gradient_scale)):
        if isinstance(value, torch.Tensor) and value.is_cuda:
            single = value.detach().to(torch.float32).reshape(())
            setattr(options, f"{name}_at", single.data_ptr())
            options.keep_alive.append(single)
        else:
            setattr(options, name, float(value))
    return options


_SHAPE, _DTYPE = operator.attrgetter("shape"), operator.attrgetter("dtype")
_ADDRESS = torch.Tensor.data_ptr
_GRAD = operator.attrgetter("grad")


def _kinds(tensors: Sequence[torch.Tensor]) -> tuple[list, list, list]:
    """What tensors must have in common to take each other's place. Three lists: twice as fast as a list of triples."""
    devices = list(map(torch.Tensor.get_device, tensors))
    return list(map(_SHAPE, tensors)), list(map(_DTYPE, tensors)), devices


class MuonPlan:
    """The Muon step of one list of parameters, prepared once and enqueued every step.

    On a GPU a step is a CUDA graph: the host's part takes tens of microseconds however long the list is. The gradients
    may be other tensors at every step, of the same shapes, strides and dtypes; hyper-parameters are given at every step.
    Parameters and momentum buffers (contiguous float32) change in place; the plan keeps them alive.
    ``workspace_bytes`` is the device memory that the plan holds; ``workspace_limit`` bounds it where running the list in
    rounds can. Steps of one plan must follow each other: one stream, or streams that wait for each other.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
        momentum_buffers: Sequence[torch.Tensor],
        *,
        coefficients: Coefficients = "jordan",
        steps: int | None = None,
        workspace_limit: int = DEFAULT_WORKSPACE,
    ) -> None:
        self._plan = None
        self._engine_call = _Call(_one_device([*parameters, *gradients, *momentum_buffers]))
        items = _items(parameters, gradients, momentum_buffers)
        # What an item's gradient is: a matrix of one of the step's tensors, at an offset.
        origins = (ctypes.c_uint32 * len(items))()
        at = 0
        for index, gradient in enumerate(gradients):
            for _ in range(gradient.shape[0] if gradient.dim() == 3 else 1):
                origins[at] = index
                offset = (items[at].gradient.data or 0) - gradient.data_ptr()
                items[at].gradient.data = offset or None
                at += 1
        self._parameters, self._momenta = list(parameters), list(momentum_buffers)
        self._kinds = _kinds(gradients)
        # A parameter's .grad has its shape, dtype and device: torch sees to that.
        self._like_parameters = self._kinds == _kinds(parameters)
        self._strides = [g.stride() for g in gradients]
        self._contiguous = all(g.is_contiguous() for g in gradients)
        table = _table(coefficients, steps)
        library, needed = load_library(), ctypes.c_uint64()
        _check(
            library.muond_kernels_muon_plan_workspace(
                self._engine_call.engine, ctypes.byref(table), items, len(items), len(gradients),
                workspace_limit, ctypes.byref(needed),
            )
        )  # fmt: skip
        self._memory, address = self._engine_call.workspace(needed.value)
        plan = ctypes.c_void_p()
        _check(
            library.muond_kernels_muon_plan_create(
                self._engine_call.engine, ctypes.byref(table), items, origins, len(items),
                len(gradients), address, needed, ctypes.byref(plan),
            )
        )  # fmt: skip
        self._plan = plan
        self._destroy = weakref.finalize(self, library.muond_kernels_muon_plan_destroy, plan)
        self.workspace_bytes: int = needed.value

    def _addresses(
        self, gradients: Sequence[torch.Tensor], are_grads: bool = False
    ) -> list[int] | None:
        """Where the gradients lie; None when the plan was not made for such. ``are_grads``: of the plan's parameters."""
        if not (are_grads and self._like_parameters) and _kinds(gradients) != self._kinds:
            return None
        if self._contiguous:
            if not all(map(torch.Tensor.is_contiguous, gradients)):
                return None
        elif [g.stride() for g in gradients] != self._strides:
            return None
        addresses = list(map(_ADDRESS, gradients))
        return None if functools.reduce(operator.or_, addresses, 0) & 15 else addresses

    def step(
        self,
        gradients: Sequence[torch.Tensor] | None = None,
        *,
        lr: float | torch.Tensor,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-7,
        adjust_lr_fn: str | None = None,
        gradient_scale: float | torch.Tensor = 1.0,
    ) -> None:
        """One step, on torch's current stream. Arguments are ``muon_step``'s.

        Without gradients: the parameters' ``grad``, which is faster, since torch keeps them in their parameters' shapes.
        ValueError for gradients of other shapes, strides, dtypes or device, or at addresses that are not multiples of 16.
        """
        are_grads = gradients is None
        if are_grads:
            gradients = list(map(_GRAD, self._parameters))
            if type(None) in map(type, gradients):
                raise ValueError("a parameter of the plan has no gradient")
        addresses = self._addresses(gradients, are_grads)
        if addresses is None:
            raise ValueError("gradients of other shapes, strides, dtypes, device or alignment")
        options = _muon_options(
            lr, weight_decay, momentum, nesterov, eps, adjust_lr_fn, gradient_scale
        )
        self._step(addresses, options)

    def _step(self, addresses: list[int], options: _MuonOptions) -> None:
        device = self._engine_call.device
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        packed = struct.pack(f"{len(addresses)}Q", *addresses)
        _check(
            load_library().muond_kernels_muon_plan_step(
                self._plan, stream, ctypes.byref(options), packed, len(addresses)
            )
        )


# The plans of muon_step, the latest last. A plan goes when a tensor of it does.
_plans: dict[Hashable, tuple[MuonPlan, tuple[list[int], list[int]], list[weakref.ref]]] = {}
_PLANS_KEPT = 4


def release() -> None:
    """Give back the workspaces that ``muon_step`` keeps for the lists it has seen."""
    _plans.clear()


def _frozen(coefficients: Coefficients) -> Hashable:
    if isinstance(coefficients, str):
        return coefficients
    return tuple(tuple(row) if isinstance(row, Sequence) else row for row in coefficients)


def _plan_for(
    p: list[torch.Tensor],
    g: list[torch.Tensor],
    m: list[torch.Tensor],
    coefficients: Coefficients,
    steps: int | None,
    workspace_limit: int,
) -> tuple[MuonPlan, list[int]] | None:
    """The plan of this list on the current stream, and where the gradients lie; None where a plan cannot be used."""
    if (
        not len(p) == len(g) == len(m)
        or not p[0].is_cuda
        or torch.cuda.is_current_stream_capturing()
    ):
        return None
    stream = torch.cuda.current_stream(p[0].device).cuda_stream
    key = (
        stream, _frozen(coefficients), steps, workspace_limit, tuple(map(id, p)), tuple(map(id, m)),
    )  # fmt: skip
    places = (list(map(_ADDRESS, p)), list(map(_ADDRESS, m)))
    known = _plans.get(key)
    if known is not None:
        if known[1] == places:
            found = known[0]._addresses(g, all(map(operator.is_, g, map(_GRAD, p))))
            if found is not None:
                return known[0], found
        del _plans[key]
    apart = (x.stride(0) * x.element_size() if x.dim() == 3 else 0 for x in g)
    if any((x.data_ptr() | distance) & 15 for x, distance in zip(g, apart, strict=True)):
        return None
    known = None
    while len(_plans) >= _PLANS_KEPT:
        del _plans[next(iter(_plans))]
    plan = MuonPlan(
        p, g, m, coefficients=coefficients, steps=steps, workspace_limit=workspace_limit
    )
    plan._parameters = plan._momenta = None  # the caller's to free: `watch` sees it
    watch = [weakref.ref(tensor, lambda _: _plans.pop(key, None)) for tensor in p + m]
    _plans[key] = (plan, places, watch)
    return plan, list(map(_ADDRESS, g))


@torch.no_grad()
def muon_step(
    parameters: torch.Tensor | Sequence[torch.Tensor],
    gradients: torch.Tensor | Sequence[torch.Tensor],
    momentum_buffers: torch.Tensor | Sequence[torch.Tensor],
    *,
    lr: float | torch.Tensor,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    eps: float = 1e-7,
    adjust_lr_fn: str | None = None,
    gradient_scale: float | torch.Tensor = 1.0,
    workspace_limit: int = DEFAULT_WORKSPACE,
) -> None:
    """One Muon step of a list: gradients in; parameters and momentum buffers (float32) change in place.

    Defaults and formulas are torch.optim.Muon's: the momentum is an exponential average, decay is decoupled, and the
    update is scaled by ``adjust_lr_fn`` ("original", "match_rms_adamw", "spectral_unclamped", "sqrt_max", "none").
    gradient_scale multiplies the gradients first: a clip factor, or one over a loss scale. lr and gradient_scale may be
    CUDA tensors of one element: they are read when the work runs, also inside a captured graph.
    Tensors are [m, n] or stacks [b, m, n]; everything is checked before anything is changed.
    On a GPU the first call for a list prepares a ``MuonPlan`` and later calls enqueue it; at most four are kept, each
    with its workspace, as long as its tensors live (``release`` drops them).
    """
    if adjust_lr_fn not in _SCALES:
        raise ValueError(
            f"adjust_lr_fn is {adjust_lr_fn!r}; known are {sorted(filter(None, _SCALES))}"
        )
    p, g, m = _to_list(parameters), _to_list(gradients), _to_list(momentum_buffers)
    if not p:
        return
    options = _muon_options(lr, weight_decay, momentum, nesterov, eps, adjust_lr_fn, gradient_scale)
    plan = _plan_for(p, g, m, coefficients, steps, workspace_limit)
    if plan is not None:
        plan[0]._step(plan[1], options)
        return
    call = _Call(_one_device(p + g + m))
    items = _items(p, g, m)
    table = _table(coefficients, steps)
    library, needed = load_library(), ctypes.c_uint64()
    _check(
        library.muond_kernels_muon_step_workspace(
            call.engine, ctypes.byref(table), items, len(items), workspace_limit,
            ctypes.byref(needed),
        )
    )  # fmt: skip
    memory, address = call.workspace(needed.value)
    _check(
        library.muond_kernels_muon_step(
            call.engine, call.stream, ctypes.byref(table), ctypes.byref(options), items,
            len(items), address, needed,
        )
    )  # fmt: skip
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
            call.engine, ctypes.byref(table), sources, len(sources), workspace_limit,
            ctypes.byref(needed),
        )
    )  # fmt: skip
    return needed.value
