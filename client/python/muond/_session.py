"""Python objects over the C interface: a daemon, a manifest, a rank's session. No torch here."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref, c_double, c_int64, c_uint64, c_void_p
from dataclasses import dataclass

from . import _library as lib
from .errors import DaemonLostError, MuondError


def check(status: int) -> None:
    """Raises what ``muond_last_message`` tells, unless ``status`` is OK."""
    if status == lib.OK:
        return
    library = lib.load()
    name = library.muond_status_name(status).decode()
    text = library.muond_last_message().decode(errors="replace")
    error = DaemonLostError if status == lib.UNAVAILABLE else MuondError
    raise error(text or name, name)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


class Daemon:
    """A ``muond --standalone`` of our own; ends with this process, or by ``stop``."""

    def __init__(
        self,
        *,
        program: str | None = None,
        log_path: str | None = None,
        timeout: float = 0.0,
        arguments: Sequence[str] = (),
        progress: Callable[[float, str], None] | None = None,
    ) -> None:
        self._handle: c_void_p | None = (handle := c_void_p())
        options = lib.DaemonOptions.make(
            program=_text(program), log_path=_text(log_path), timeout_seconds=timeout
        )
        options.arguments = (ctypes.c_char_p * (len(arguments) + 1))(
            *[a.encode() for a in arguments], None
        )
        if progress is not None:
            options.progress = lib.ProgressFunction(
                lambda _context, seconds, text: progress(seconds, text.decode())
            )
        check(lib.load().muond_daemon_start(options, handle))
        self.endpoint: str = lib.load().muond_daemon_endpoint(handle).decode()
        self.pid: int = lib.load().muond_daemon_pid(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            with contextlib.suppress(MuondError):
                self.stop()

    def wait(self, timeout: float) -> bool:
        """True once every rank there has left, within ``timeout`` seconds."""
        if not self._handle:
            return True
        status = lib.load().muond_daemon_wait(self._handle, timeout)
        if status == lib.DEADLINE_EXCEEDED:
            return False
        check(status)
        return True

    def stop(self, timeout: float = 0.0) -> None:
        """Lets the daemon end and waits for it, at most ``timeout`` seconds (0: 10). Idempotent."""
        handle, self._handle = self._handle, None
        if handle:
            check(lib.load().muond_daemon_stop(handle, timeout))


class Manifest:
    """What a rank wants to have optimised; indices count the calls of one kind."""

    def __init__(
        self, job: str, world_size: int, rank: int, buckets: int, device_uuid: str | None = None
    ) -> None:
        """``device_uuid``: of the GPU that holds the parameters ("GPU-..."); None: host memory."""
        self.handle = c_void_p()
        options = lib.ManifestOptions.make(
            job=_text(job),
            world_size=world_size,
            rank=rank,
            buckets=buckets,
            device_uuid=_text(device_uuid),
        )
        check(lib.load().muond_manifest_create(options, self.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            lib.load().muond_manifest_destroy(self.handle)

    def add_muon_group(
        self, name: str, table: str | Sequence[tuple[float, float, float]], steps: int, scale: int
    ) -> None:
        """``table`` is a coefficient table's name, or its rows."""
        group = lib.Group.make(
            name=_text(name), rule=lib.RULE_MUON, steps=steps, update_scale=scale
        )
        if isinstance(table, str):
            group.table = _text(table)
        else:
            group.table = b"custom"
            group.custom_steps = (lib.Coefficients * len(table))(*table)
            group.custom_step_count = len(table)
        check(lib.load().muond_manifest_add_group(self.handle, group, None))

    def add_adamw_group(self, name: str) -> None:
        group = lib.Group.make(name=_text(name), rule=lib.RULE_ADAMW)
        check(lib.load().muond_manifest_add_group(self.handle, group, None))

    def add_tensor(
        self, name: str, shape: Sequence[int], group: int, bucket: int, row_dims: int = 1
    ) -> None:
        tensor = lib.Tensor.make(
            name=_text(name),
            shape=(c_int64 * len(shape))(*shape),
            dims=len(shape),
            row_dims=row_dims,
            group=group,
            bucket=bucket,
        )
        check(lib.load().muond_manifest_add_tensor(self.handle, tensor, None))

    def add_whole_block(
        self, tensor: int, kind: int, replica: int, replicas: int, divisor: float = 1.0
    ) -> None:
        """This rank holds all of ``tensor``, as copy ``replica`` of ``replicas``."""
        block = lib.Block.make(
            tensor=tensor,
            replica_kind=kind,
            replica=replica,
            replicas=replicas,
            divisor=divisor,
        )
        check(lib.load().muond_manifest_add_block(self.handle, block, None))

    def add_block(
        self,
        tensor: int,
        offset: Sequence[int],
        extent: Sequence[int],
        kind: int,
        replica: int,
        replicas: int,
        divisor: float = 1.0,
    ) -> None:
        """This rank holds ``extent`` of ``tensor`` at ``offset`` (an extent of 0: nothing), as copy ``replica`` of ``replicas``."""
        dims = max(len(offset), 1)  # a scalar is a tensor of shape [1]
        block = lib.Block.make(
            tensor=tensor,
            dims=dims,
            offset=(c_int64 * dims)(*(offset or (0,))),
            extent=(c_int64 * dims)(*(extent or (1,))),
            replica_kind=kind,
            replica=replica,
            replicas=replicas,
            divisor=divisor,
        )
        check(lib.load().muond_manifest_add_block(self.handle, block, None))


class Slab:
    """Memory shared with the daemon; mapped as long as somebody holds this, or a buffer of it."""

    def __init__(self, handle: c_void_p) -> None:
        self._handle = handle
        self.address: int = lib.load().muond_slab_data(handle) or 0
        self.size: int = lib.load().muond_slab_size(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            lib.load().muond_slab_release(self._handle)

    def buffer(self, offset: int, size: int) -> ctypes.Array:
        """``size`` writable bytes at ``offset``; the buffer keeps the slab mapped."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset} to {offset + size} of a slab of {self.size}")
        array = (ctypes.c_char * size).from_address(self.address + offset)
        array.slab = self
        return array


@dataclass(frozen=True)
class Place:
    """Where a block lies in this rank's slabs, in bytes."""

    size: int
    gradient_offset: int
    parameter_offset: int
    push_gradient: bool


@dataclass(frozen=True)
class Outcome:
    """How a step ended; ``text`` tells a VOID one's reason."""

    step: int
    applied: bool
    reason: int
    tensor: int
    text: str


class Session:
    """A rank attached to a daemon (or to the echo, without one). One thread at a time."""

    def __init__(
        self,
        manifest: Manifest,
        endpoint: str | None,
        *,
        token: str | None = None,
        join_timeout: float = 0.0,
        repair_timeout: float = 0.0,
        attempt: int = 0,
    ) -> None:
        """``attempt``: a random number that the job's ranks share for this try; 0: none."""
        self._library = lib.load()
        self._pid = os.getpid()
        # Held from the beginning: an exception from outside (Ctrl-C) that comes when the rank is in leaves nobody there.
        self._handle: c_void_p | None = (handle := c_void_p())
        options = lib.AttachOptions.make(
            endpoint=_text(endpoint),
            token=_text(token),
            echo=int(endpoint is None),
            join_timeout_seconds=join_timeout,
            repair_timeout_seconds=repair_timeout,
            attempt=attempt,
        )
        try:
            check(self._library.muond_client_attach(options, manifest.handle, handle))
        except DaemonLostError as error:
            hint = "start it (muond --help), or name none: the job then starts one of its own"
            raise DaemonLostError(f"{error} ({hint})", error.status) from None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and os.getpid() == self._pid:
            with contextlib.suppress(MuondError):
                self.close()

    @property
    def handle(self) -> c_void_p:
        if not self._handle:
            raise MuondError("this session has left its daemon", "FAILED_PRECONDITION")
        return self._handle

    def info(self) -> lib.ClientInfo:
        info = lib.ClientInfo.make()
        check(self._library.muond_client_get_info(self.handle, info))
        return info

    def last_step(self) -> int:
        """The newest step whose outcome ``wait`` has told."""
        return self.info().last_step

    def place(self, block: int) -> Place:
        place = lib.BlockPlace.make()
        check(self._library.muond_client_get_block(self.handle, block, place))
        return Place(
            place.size, place.gradient_offset, place.parameter_offset, bool(place.push_gradient)
        )

    def slab(self, kind: int) -> Slab:
        handle = c_void_p()
        check(self._library.muond_client_get_slab(self.handle, kind, handle))
        return Slab(handle)

    def put(self, block: int, address: int, size: int) -> None:
        """The next step's gradient of ``block``: ``size`` dense bytes at ``address``."""
        check(self._library.muond_client_put(self.handle, block, address, size))

    def use_stream(self, stream: int) -> None:
        """For a rank on a GPU: the cudaStream_t that the next calls come behind."""
        check(self._library.muond_client_use_stream(self.handle, stream))

    def placed(self, blocks: ctypes.Array) -> None:
        """The gradients of ``blocks`` (an array of int32) are in the slab once the stream gets there."""
        check(self._library.muond_client_placed(self.handle, blocks, len(blocks)))

    def wait_on_stream(self) -> None:
        """What the stream holds next sees the committed step's parameters."""
        check(self._library.muond_client_wait_on_stream(self.handle))

    def announce(self, bucket: int) -> None:
        check(self._library.muond_client_announce(self.handle, bucket))

    def commit(
        self,
        groups: Sequence[lib.Scalars],
        *,
        found_inf: bool = False,
        loss_scale: float = 1.0,
        clip_norm: float = 0.0,
    ) -> int:
        """Hands the step over and returns its number."""
        options = lib.Step.make(
            groups=(lib.Scalars * len(groups))(*groups),
            group_count=len(groups),
            found_inf=int(found_inf),
            loss_scale=loss_scale,
            clip_norm=clip_norm,
        )
        step = c_uint64()
        check(self._library.muond_client_commit(self.handle, options, byref(step)))
        return step.value

    def wait(self, timeout: float) -> Outcome | None:
        """The committed step's outcome, or None when ``timeout`` seconds passed before it."""
        outcome = lib.Outcome.make()
        status = self._library.muond_client_wait(self.handle, c_double(timeout), byref(outcome))
        if status == lib.DEADLINE_EXCEEDED:
            return None
        check(status)
        applied = outcome.kind == lib.APPLIED
        text = "" if applied else self._library.muond_last_message().decode(errors="replace")
        return Outcome(outcome.step, applied, outcome.reason, outcome.tensor, text)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """What is fetched and pushed within shares one connection; nothing forks meanwhile. A session that is left within is no error."""
        try:
            check(self._library.muond_client_keep_connection(self.handle, 1))
            yield
        finally:
            if self._handle:
                check(self._library.muond_client_keep_connection(self._handle, 0))

    def fetch_state(self, tensor: int, field: int, address: int, size: int) -> None:
        check(self._library.muond_client_fetch_state(self.handle, tensor, field, address, size))

    def push_state(self, tensor: int, field: int, address: int, size: int) -> None:
        check(self._library.muond_client_push_state(self.handle, tensor, field, address, size))

    def fetch_block_state(self, block: int, field: int, address: int, size: int) -> None:
        """A state field of one of this rank's blocks: ``size`` dense bytes to ``address``."""
        check(
            self._library.muond_client_fetch_block_state(self.handle, block, field, address, size)
        )

    def push_block_state(self, block: int, field: int, address: int, size: int) -> None:
        check(self._library.muond_client_push_block_state(self.handle, block, field, address, size))

    def close(self, *, detach: bool = True) -> None:
        """Leaves the job; without ``detach`` the daemon takes this rank for dead. Idempotent."""
        handle, self._handle = self._handle, None
        if not handle:
            return
        try:
            if detach:
                check(self._library.muond_client_detach(handle))
        finally:
            self._library.muond_client_destroy(handle)


def digest64(address: int, size: int) -> int:
    """The 64-bit digest by which replicas are compared."""
    return lib.load().muond_digest64(address, size)


def version() -> str:
    """The library's version."""
    return lib.load().muond_version().decode()
