"""The engine inside the trainer: the daemon's kernels, called in this process in the daemon's order. No other process, and nothing survives this one.

A step is measured first (NaN, Inf, the norm), then decided, and only then applied: every Muon group, every AdamW group. Parameters and state change in
place, gradients are read where they lie. Under DDP every rank does the whole step from the same reduced gradients.
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import _library as lib
from . import _passes, ops
from ._session import Outcome
from .attachment import Attachment, Entry
from .ballot import Ballot, agree_on, digest
from .errors import MuondError
from .replicas import World

_CALL = operator.methodcaller("__call__")
_SETS_KEPT = 8  # lists of tensors with a gradient for which calls are kept prepared


def check(daemon: str | None, endpoint: str | None, data_parallel: str | None) -> None:
    """ValueError for what does not go together with ``daemon``."""
    if daemon not in (None, "auto"):
        raise ValueError(
            f'daemon must be "auto" or None (the engine in this process), not {daemon!r}; a running '
            "daemon is chosen with endpoint="
        )
    if daemon is None and endpoint is not None:
        raise ValueError(
            f"daemon=None steps in this process, and endpoint={endpoint!r} names a daemon: give one"
        )
    if daemon is None and data_parallel == "unreduced":
        raise ValueError(
            'data_parallel="unreduced" needs a daemon, which averages the ranks\' gradients; with '
            "daemon=None let DistributedDataParallel reduce them"
        )


def agree(entries: list[Entry], param_groups: list[dict[str, Any]], world: World) -> None:
    """ValueError on every rank unless all have the same parameters, with the same values, under the same rules. A collective call.

    A daemon would hand one rank's values to all; here every rank goes on from its own.
    """
    for entry in entries:
        if entry.shard is not None:
            raise ValueError(
                f"{entry.name} is a DTensor (FSDP2 or tensor parallelism): daemon=None steps whole tensors, "
                "on one process or under DistributedDataParallel; leave daemon=None away"
            )
    if world.size == 1:
        return
    lines = []
    for entry in entries:
        rule = "Muon" if param_groups[entry.group]["use_muon"] else "AdamW"
        values = digest(entry.parameter.detach().contiguous())
        where = f"{entry.name} {list(entry.shape)} of group {entry.group} ({rule})"
        lines.append(f"{where}, values of digest {values:016x}")
    agree_on(world, lines)


class _Group:
    """A parameter group's calls for one set of tensors that have a gradient."""

    def __init__(self, settings: dict[str, Any], entries: list[Entry], session: Session) -> None:
        self.entries, self._session = entries, session
        gradients = [session.gradients[entry.tensor] for entry in entries]
        states = [session.state[entry.tensor] for entry in entries]
        self._scale = settings.get("adjust_lr_fn")
        self._muon: ops.MuonPlan | None = None
        if settings["use_muon"]:
            self._muon = ops.MuonPlan(
                [_matrix(entry.place) for entry in entries],
                [_matrix(gradient) for gradient in gradients],
                [_matrix(state[lib.STATE_MOMENTUM]) for state in states],
                coefficients=settings["ns_coefficients"],
                steps=int(settings["ns_steps"]),
            )
        else:
            fields = (lib.STATE_EXP_AVG, lib.STATE_EXP_AVG_SQ, lib.STATE_STEP)
            tensors = [
                (entry.place, *(state[field] for field in fields))
                for entry, state in zip(entries, states, strict=True)
            ]
            self._adamw = _passes.AdamW(session.call, tensors, gradients)

    def prepared(self, scalars: lib.Scalars, gradient_scale: float) -> Callable[[], int]:
        """The group's step as one C call, which returns a status."""
        gradients = [self._session.gradients[entry.tensor] for entry in self.entries]
        if self._muon is None:
            return self._adamw.prepared(gradients, scalars, gradient_scale)
        options = ops._muon_options(
            scalars.lr,
            scalars.weight_decay,
            scalars.momentum,
            bool(scalars.nesterov),
            scalars.eps,
            self._scale,
            gradient_scale,
        )
        addresses = [gradient.data_ptr() for gradient in gradients]
        return functools.partial(
            ops.load_library().muond_kernels_muon_plan_step,
            self._muon._plan,
            _passes.stream_of(self._session.call.device),
            options,
            struct.pack(f"{len(addresses)}Q", *addresses),
            len(addresses),
        )


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(tensor.shape[0], -1)


class Session:
    """State and steps of one optimizer; the calls of `_session.Session` that an attachment makes. One thread at a time."""

    def __init__(
        self, entries: list[Entry], param_groups: list[dict[str, Any]], world: World
    ) -> None:
        self._entries, self._groups = entries, param_groups
        self.call = ops._Call(entries[0].parameter.device)
        _passes.load()
        self.state = [self._zeros(entry) for entry in entries]
        self.gradients: dict[int, torch.Tensor] = {}  # of the open step, dense, by tensor
        self._check_tables()
        self._alone = world.size == 1
        self._ballot = Ballot(world, [entry.name for entry in entries], len(param_groups))
        self._prepared: dict[tuple[int, ...], tuple[_passes.Measure, list[tuple[int, _Group]]]] = {}
        self._last = 0
        self._open: tuple[int, list[lib.Scalars], float, float] | None = None
        self._outcome: Outcome | None = None
        self._closed = False

    def _zeros(self, entry: Entry) -> dict[int, torch.Tensor]:
        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.call.device)

        if self._groups[entry.group]["use_muon"]:
            return {lib.STATE_MOMENTUM: zeros(*entry.shape)}
        return {
            lib.STATE_EXP_AVG: zeros(*entry.shape),
            lib.STATE_EXP_AVG_SQ: zeros(*entry.shape),
            lib.STATE_STEP: zeros(1, dtype=torch.float64),
        }

    def _check_tables(self) -> None:
        for g, group in enumerate(self._groups):
            if not group["use_muon"]:
                continue
            try:
                ops.workspace_bytes(torch.zeros(1, 1), group["ns_coefficients"], group["ns_steps"])
            except ValueError as error:
                raise MuondError(f"group {g}: {error}", "INVALID_ARGUMENT") from None

    def forget(self) -> None:
        """A parameter lies elsewhere: calls are prepared anew."""
        self._prepared.clear()

    # ---- the step

    def last_step(self) -> int:
        """The newest step that is over."""
        return self._last

    def commit(
        self,
        scalars: Sequence[lib.Scalars],
        *,
        found_inf: bool = False,
        loss_scale: float = 1.0,
        clip_norm: float = 0.0,
    ) -> int:
        """Under DDP: hears whether all ranks make the same step. Changes nothing; `wait` does."""
        if self._closed:
            raise MuondError("this engine was closed", "FAILED_PRECONDITION")
        step = self._last + 1
        if not self._alone and self._open is not None and self._ballot.is_cast(step):
            raise MuondError(f"step {step} is committed", "FAILED_PRECONDITION")
        if found_inf:
            self.gradients = {}
        digests = dict.fromkeys(self.gradients, 0)
        if not self._alone:
            digests = {tensor: digest(g) for tensor, g in self.gradients.items()}
        self._open = (step, list(scalars), loss_scale, clip_norm)
        self._ballot.cast(
            step, scalars, digests, found_inf=found_inf, loss_scale=loss_scale, clip_norm=clip_norm
        )
        return step

    def wait(self, timeout: float) -> Outcome | None:
        """Decides and applies the committed step. ``timeout`` is for sessions elsewhere: on a GPU the work is enqueued when this returns."""
        if self._open is None or not self._ballot.is_cast(self._open[0]):
            raise MuondError("no step is committed", "FAILED_PRECONDITION")
        step, scalars, loss_scale, clip_norm = self._open
        outcome = self._ballot.refusal(step)
        if outcome is None and self.gradients:
            outcome = self._apply(step, scalars, loss_scale, clip_norm)
        self._last, self._open, self.gradients = step, None, {}
        return outcome or Outcome(step, True, 0, -1, "")

    def _apply(
        self, step: int, scalars: list[lib.Scalars], loss_scale: float, clip_norm: float
    ) -> Outcome | None:
        """None when it is applied."""
        measure, groups = self._calls()
        non_finite, squares = measure(list(self.gradients.values()), clip_norm > 0)
        for tensor, count in zip(self.gradients, non_finite, strict=True):
            if count:
                text = (
                    f"step {step} changed nothing: the gradient of {self._entries[tensor].name} holds "
                    f"NaN or Inf: {count} of {self.gradients[tensor].numel()} elements"
                )
                return Outcome(step, False, lib.VOID_NON_FINITE, tensor, text)
        factor = 1.0
        if clip_norm > 0:  # torch.nn.utils.clip_grad_norm_
            factor = min(1.0, clip_norm / (math.sqrt(squares) / loss_scale + 1e-6))
        calls = [group.prepared(scalars[g], factor / loss_scale) for g, group in groups]
        # The calls and the count without a line of Python between them: an exception from outside (Ctrl-C) comes before all of it or
        # after all of it.
        counted = functools.partial(setattr, self, "_last", step)
        if not all(map(operator.not_, map(_CALL, [*calls, counted]))):
            self._closed = True
            text = ops.load_library().muond_kernels_message().decode()
            raise MuondError(
                f"step {step} was left half made: {text}; load a saved state", "INTERNAL"
            )
        return None

    def _calls(self) -> tuple[_passes.Measure, list[tuple[int, _Group]]]:
        """What the present gradients need, prepared."""
        key = tuple(self.gradients)
        if (found := self._prepared.get(key)) is not None:
            return found
        while len(self._prepared) >= _SETS_KEPT:
            del self._prepared[next(iter(self._prepared))]
        groups = []
        for g, settings in enumerate(self._groups):
            entries = [self._entries[i] for i in key if self._entries[i].group == g]
            if entries:
                groups.append((g, _Group(settings, entries, self)))
        made = (_passes.Measure(self.call, list(self.gradients.values())), groups)
        self._prepared[key] = made
        return made

    @staticmethod
    def connected() -> contextlib.AbstractContextManager[None]:
        """Its state is here: there is nothing to connect to."""
        return contextlib.nullcontext()

    def close(self, *, detach: bool = True) -> None:
        """State is gone. Idempotent."""
        self._closed = True
        self._prepared.clear()
        self.state = []


class InsideAttachment(Attachment):
    """Entries of an engine in this process: parameters stay where they are."""

    def __init__(
        self, entries: list[Entry], param_groups: list[dict[str, Any]], world: World
    ) -> None:
        self.entries = entries
        self.by_parameter = {id(entry.parameter): entry for entry in entries}
        self.device = entries[0].parameter.device
        self.on_device = False  # a step is decided when step() returns, on a GPU too
        self._put = []
        self.session = Session(entries, param_groups, world)
        for entry in entries:
            self.adopt(entry)

    @torch.no_grad()
    def adopt(self, entry: Entry) -> None:
        """A parameter that is not contiguous has a dense copy beside it."""
        p = entry.parameter
        if p.device != self.device:
            raise ValueError(
                f"{entry.name} was on {self.device} when the optimizer attached and is on {p.device} "
                "now: make a new optimizer, and load the state"
            )
        if p.is_contiguous() or entry.adopted or entry.view is None:
            entry.view = p.detach().contiguous()
            self.session.forget()
        else:
            entry.view.copy_(p)
        entry.adopted = p.is_contiguous()

    def put(self) -> None:
        """The gradients, where they lie, or a dense copy."""
        self._put = [entry for entry in self.entries if entry.parameter.grad is not None]
        self.session.gradients = {entry.tensor: _dense(entry.parameter.grad) for entry in self._put}

    def fetch(self, p: torch.Tensor, field: int) -> torch.Tensor | None:
        """A copy of a state field, or None for a parameter that is not here."""
        entry = self.by_parameter.get(id(p))
        if entry is None:
            return None
        value = self.session.state[entry.tensor][field]
        return value.cpu().clone() if field == lib.STATE_STEP else value.clone()

    @torch.no_grad()
    def push(self, p: torch.Tensor, field: int, value: torch.Tensor) -> bool:
        """Sets a state field; False for a parameter that is not here."""
        entry = self.by_parameter.get(id(p))
        if entry is None:
            return False
        kept = self.session.state[entry.tensor][field]
        kept.copy_(value.reshape(kept.shape))
        return True

    def release(self) -> None:
        """Parameters have had memory of their own all along."""
        for entry in self.entries:
            entry.view = None


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    """At a multiple of 16, as the engine's plans take it."""
    dense = gradient.detach().resolve_neg().contiguous()
    return dense.clone() if dense.data_ptr() % 16 else dense
