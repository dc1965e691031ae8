"""Errors of the client. Every one says what, where and how much; all are RuntimeErrors."""

from __future__ import annotations

from . import _library as lib


class MuondError(RuntimeError):
    """The service refused or failed. ``status`` is the canonical code's name."""

    def __init__(self, message: str, status: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.status = status


class DaemonLostError(MuondError):
    """The daemon is gone for good. The optimizer cannot step again; parameters hold their last values."""


class StepVoidError(MuondError):
    """A step changed nothing: no parameter, no state, no count. ``step`` is its number."""

    def __init__(self, message: str, step: int, tensor: str | None = None) -> None:
        super().__init__(message, "ABORTED")
        self.step = step
        self.tensor = tensor


class NonFiniteGradientError(StepVoidError):
    """A gradient holds NaN or Inf; ``tensor`` names the first such parameter."""


class ReplicasDifferError(StepVoidError):
    """Ranks that should hold the same reduced gradient, or the same settings, do not."""


class RankLostError(StepVoidError):
    """Another rank of the job died before the step was decided."""


_OF_REASON = {
    lib.VOID_NON_FINITE: NonFiniteGradientError,
    lib.VOID_SHEETS_DIFFER: ReplicasDifferError,
    lib.VOID_REPLICAS_DIFFER: ReplicasDifferError,
    lib.VOID_NOT_WHOLE: ReplicasDifferError,
    lib.VOID_RANK_LOST: RankLostError,
}


def void_error(reason: int, text: str, step: int, tensor: str | None) -> StepVoidError:
    """The kind of error that a void step's reason is."""
    return _OF_REASON.get(reason, StepVoidError)(text, step, tensor)
