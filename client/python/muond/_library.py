"""libmuond.so through ctypes: the structs and prototypes of muond.h, nothing else."""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path

ABI_MAJOR, ABI_MINOR = 1, 2

OK, DEADLINE_EXCEEDED, UNAVAILABLE = 0, 4, 14
FLOAT32 = 1
RULE_MUON, RULE_ADAMW = 1, 2
SCALES = {"original": 1, "match_rms_adamw": 2, "spectral_unclamped": 3, "sqrt_max": 4, "none": 5}
REPLICA_SAME, REPLICA_SUM = 1, 2
SLAB_GRADIENT, SLAB_PARAMETER = 4, 5
STATE_MOMENTUM, STATE_EXP_AVG, STATE_EXP_AVG_SQ, STATE_STEP, STATE_PARAMETER = 1, 2, 3, 4, 5
APPLIED, VOID = 1, 2
VOID_NON_FINITE, VOID_FOUND_INF, VOID_SHEETS_DIFFER = 1, 2, 3
VOID_REPLICAS_DIFFER, VOID_RANK_LOST, VOID_NOT_WHOLE = 4, 5, 6

ProgressFunction = CFUNCTYPE(None, c_void_p, c_double, c_char_p)


class Sized(Structure):
    """A struct whose first field is its own size; made with ``Type.make(field=value)``."""

    @classmethod
    def make(cls, **fields: object) -> Sized:
        return cls(struct_size=ctypes.sizeof(cls), **fields)


class DaemonOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("program", c_char_p),
        ("log_path", c_char_p),
        ("timeout_seconds", c_double),
        ("arguments", POINTER(c_char_p)),
        ("progress", ProgressFunction),
        ("progress_context", c_void_p),
    ]


class ManifestOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("job", c_char_p),
        ("world_size", c_int32),
        ("rank", c_int32),
        ("buckets", c_int32),
        ("device_uuid", c_char_p),
    ]


class Coefficients(Structure):
    _fields_ = [("a", c_double), ("b", c_double), ("c", c_double)]


class Group(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("rule", c_int32),
        ("table", c_char_p),
        ("custom_steps", POINTER(Coefficients)),
        ("custom_step_count", c_int32),
        ("steps", c_int32),
        ("update_scale", c_int32),
    ]


class Tensor(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("shape", POINTER(c_int64)),
        ("dims", c_int32),
        ("row_dims", c_int32),
        ("parameter_type", c_int32),
        ("gradient_type", c_int32),
        ("group", c_int32),
        ("bucket", c_int32),
        ("matrix_rows", POINTER(c_int64)),
        ("matrix_rows_count", c_int32),
    ]


class Block(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("tensor", c_int32),
        ("dims", c_int32),
        ("offset", POINTER(c_int64)),
        ("extent", POINTER(c_int64)),
        ("replica_kind", c_int32),
        ("replica", c_int32),
        ("replicas", c_int32),
        ("divisor", c_double),
    ]


class AttachOptions(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("endpoint", c_char_p),
        ("token", c_char_p),
        ("echo", c_int32),
        ("adopt", c_int32),
        ("join_timeout_seconds", c_double),
        ("repair_timeout_seconds", c_double),
        ("attempt", c_uint64),
    ]


class ClientInfo(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("job_id", c_uint64),
        ("session", c_uint64),
        ("epoch", c_uint64),
        ("last_step", c_uint64),
        ("incarnation", c_uint32),
        ("blocks", c_int32),
        ("buckets", c_int32),
        ("items", c_int32),
        ("reconnects", c_uint32),
        ("gradient_bytes", c_uint64),
        ("parameter_bytes", c_uint64),
        ("page_bytes", c_uint64),
    ]


class BlockPlace(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("size", c_uint64),
        ("gradient_offset", c_uint64),
        ("parameter_offset", c_uint64),
        ("push_gradient", c_int32),
    ]


class Scalars(Structure):
    _fields_ = [
        ("lr", c_double),
        ("weight_decay", c_double),
        ("momentum", c_double),
        ("eps", c_double),
        ("beta1", c_double),
        ("beta2", c_double),
        ("nesterov", c_int32),
    ]


class Step(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("groups", POINTER(Scalars)),
        ("group_count", c_int32),
        ("found_inf", c_int32),
        ("loss_scale", c_double),
        ("clip_norm", c_double),
    ]


class Outcome(Sized):
    _fields_ = [
        ("struct_size", c_size_t),
        ("step", c_uint64),
        ("kind", c_int32),
        ("reason", c_int32),
        ("tensor", c_int32),
    ]


# name: (result, arguments)
_STATUS = c_int32
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "muond_version": (c_char_p, []),
    "muond_abi_version": (None, [POINTER(c_int32), POINTER(c_int32)]),
    "muond_last_message": (c_char_p, []),
    "muond_status_name": (c_char_p, [c_int32]),
    "muond_daemon_start": (_STATUS, [POINTER(DaemonOptions), POINTER(c_void_p)]),
    "muond_daemon_endpoint": (c_char_p, [c_void_p]),
    "muond_daemon_pid": (c_int32, [c_void_p]),
    "muond_daemon_wait": (_STATUS, [c_void_p, c_double]),
    "muond_daemon_stop": (_STATUS, [c_void_p, c_double]),
    "muond_manifest_create": (_STATUS, [POINTER(ManifestOptions), POINTER(c_void_p)]),
    "muond_manifest_add_group": (_STATUS, [c_void_p, POINTER(Group), POINTER(c_int32)]),
    "muond_manifest_add_tensor": (_STATUS, [c_void_p, POINTER(Tensor), POINTER(c_int32)]),
    "muond_manifest_add_block": (_STATUS, [c_void_p, POINTER(Block), POINTER(c_int32)]),
    "muond_manifest_destroy": (None, [c_void_p]),
    "muond_client_attach": (_STATUS, [POINTER(AttachOptions), c_void_p, POINTER(c_void_p)]),
    "muond_client_get_info": (_STATUS, [c_void_p, POINTER(ClientInfo)]),
    "muond_client_get_block": (_STATUS, [c_void_p, c_int32, POINTER(BlockPlace)]),
    "muond_client_get_slab": (_STATUS, [c_void_p, c_int32, POINTER(c_void_p)]),
    "muond_slab_data": (c_void_p, [c_void_p]),
    "muond_slab_size": (c_uint64, [c_void_p]),
    "muond_slab_release": (None, [c_void_p]),
    "muond_client_put": (_STATUS, [c_void_p, c_int32, c_void_p, c_uint64]),
    "muond_client_placed": (_STATUS, [c_void_p, POINTER(c_int32), c_int32]),
    "muond_client_use_stream": (_STATUS, [c_void_p, c_void_p]),
    "muond_client_wait_on_stream": (_STATUS, [c_void_p]),
    "muond_client_announce": (_STATUS, [c_void_p, c_int32]),
    "muond_client_commit": (_STATUS, [c_void_p, POINTER(Step), POINTER(c_uint64)]),
    "muond_client_wait": (_STATUS, [c_void_p, c_double, POINTER(Outcome)]),
    "muond_client_fetch_state": (_STATUS, [c_void_p, c_int32, c_int32, c_void_p, c_uint64]),
    "muond_client_push_state": (_STATUS, [c_void_p, c_int32, c_int32, c_void_p, c_uint64]),
    "muond_client_fetch_block_state": (_STATUS, [c_void_p, c_int32, c_int32, c_void_p, c_uint64]),
    "muond_client_push_block_state": (_STATUS, [c_void_p, c_int32, c_int32, c_void_p, c_uint64]),
    "muond_client_keep_connection": (_STATUS, [c_void_p, c_int32]),
    "muond_client_detach": (_STATUS, [c_void_p]),
    "muond_client_destroy": (None, [c_void_p]),
    "muond_digest64": (c_uint64, [c_void_p, c_uint64]),
}


def library_path() -> Path:
    """Where the library is: ``MUOND_LIBRARY``; inside this package; in a checkout, its newest build."""
    package = Path(__file__).resolve().parent
    named = os.environ.get("MUOND_LIBRARY")
    path = Path(named) if named else package / "libmuond.so"
    if not named and not path.is_file():
        checkout = package.parents[2]
        builds = checkout.glob("build/*/client/capi/libmuond.so")
        path = max(builds, key=lambda found: found.stat().st_mtime, default=path)
    if not path.is_file():
        raise ImportError(
            f"the muond library is not at {path}: install the package (pip install .), build it "
            "(cmake --preset release; ninja -C build/release), or point MUOND_LIBRARY at libmuond.so"
        )
    return path


@functools.cache
def load() -> ctypes.CDLL:
    """The library, loaded once, its symbols kept to itself (RTLD_LOCAL)."""
    path = library_path()
    library = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL | os.RTLD_NOW)
    major, minor = c_int32(), c_int32()
    library.muond_abi_version(ctypes.byref(major), ctypes.byref(minor))
    if major.value != ABI_MAJOR or minor.value < ABI_MINOR:
        raise ImportError(
            f"{path} has interface {major.value}.{minor.value}, this package wants "
            f"{ABI_MAJOR}.{ABI_MINOR} (build it anew)"
        )
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
