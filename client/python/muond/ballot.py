"""What the ranks of an in-process step tell each other before any state changes, and what follows from it.

Every rank steps everything itself, from the same reduced gradients; so they must agree on the gradients (digests) and on the settings. The checks,
their order and their words are the daemon's: settings, the loss scaler, gradients on some ranks only, gradients that differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from . import _library as lib
from ._session import Outcome, digest64
from .errors import RankLostError
from .replicas import World

_SCALARS = ("lr", "weight_decay", "momentum", "eps", "beta1", "beta2", "nesterov")
_HEAD = ("step", "found_inf", "the loss scale", "clip_norm")


def digest(gradient: torch.Tensor) -> int:
    """63 bits of a dense gradient's bytes. On a GPU: the sum of its words, which no order of the additions changes."""
    if gradient.is_cuda:
        value = int(gradient.view(torch.int32).sum(dtype=torch.int64))
    else:
        value = digest64(gradient.data_ptr(), gradient.numel() * gradient.element_size())
    return value & (2**63 - 1)


class Ballot:
    """One rank's word for a step, and everybody's. Settings travel as the bits of their doubles."""

    def __init__(self, world: World, names: Sequence[str], groups: int) -> None:
        self._world, self._names, self._groups = world, names, groups
        # Settings, then the digest of every tensor's gradient; -1 where there is none.
        self._length = len(_HEAD) + groups * len(_SCALARS) + len(names)
        device = torch.device("cpu")
        if world.group is not None and dist.get_backend(world.group) == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        self._all = torch.zeros(world.size, self._length, dtype=torch.int64, device=device)

    def cast(
        self,
        step: int,
        scalars: Sequence[lib.Scalars],
        digests: dict[int, int],
        *,
        found_inf: bool,
        loss_scale: float,
        clip_norm: float,
    ) -> None:
        """Tells the others and hears them: a collective call. ``digests``: of the tensors that have a gradient."""
        settings = [float(step), float(found_inf), loss_scale, clip_norm]
        settings += [float(getattr(group, name)) for group in scalars for name in _SCALARS]
        mine = torch.empty(self._length, dtype=torch.int64)
        mine[: len(settings)] = torch.tensor(settings, dtype=torch.float64).view(torch.int64)
        mine[len(settings) :] = torch.tensor([digests.get(i, -1) for i in range(len(self._names))])
        if self._world.size == 1:
            self._all[0] = mine
            return
        try:
            dist.all_gather(
                list(self._all.unbind()), mine.to(self._all.device), group=self._world.group
            )
        except RuntimeError as error:
            text = f"another of the {self._world.size} ranks is lost: {error}"
            raise RankLostError(f"step {step} changed nothing: {text}", step) from error

    def is_cast(self, step: int) -> bool:
        """Whether everybody's word for ``step`` is here: then it is decided."""
        steps = self._all[:, 0].contiguous().view(torch.float64)
        return bool((steps == step).all())

    def refusal(self, step: int) -> Outcome | None:
        """The outcome of a step that must not be made, or None. The same on every rank."""
        votes = self._all.cpu()
        size = self._world.size

        def void(reason: int, text: str, tensor: int = -1) -> Outcome:
            return Outcome(step, False, reason, tensor, f"step {step} changed nothing: {text}")

        settings = self._length - len(self._names)
        equal = (votes == votes[0]).all(0).tolist()
        for field in range(2, settings):
            if not equal[field]:
                return void(
                    lib.VOID_SHEETS_DIFFER,
                    f"the {size} ranks gave different values for {self._field(field)}",
                )
        if votes[:, 1].any():
            return void(lib.VOID_FOUND_INF, "the loss scaler found Inf")
        absent = votes[:, settings:] < 0
        for i in torch.nonzero(absent.any(0) & ~absent.all(0)).flatten().tolist()[:1]:
            text = f"{self._names[i]} has a gradient on some of the ranks that hold it, and none on others"
            return void(lib.VOID_NOT_WHOLE, text, i)
        for i, name in enumerate(self._names):
            if not equal[settings + i]:
                text = f"the gradient of {name} is not the same on the {size} ranks that hold it, though it was said to be reduced"
                return void(lib.VOID_REPLICAS_DIFFER, text, i)
        return None

    def _field(self, field: int) -> str:
        if field < len(_HEAD):
            return _HEAD[field]
        group, scalar = divmod(field - len(_HEAD), len(_SCALARS))
        return f"{_SCALARS[scalar]} of group{group}"


def agree_on(world: World, listed: list[str]) -> None:
    """ValueError on every rank where the ranks' lists (parameters, rules) differ. A collective call."""
    if world.size == 1:
        return
    everyone: list[list[str]] = [listed] * world.size
    dist.all_gather_object(everyone, listed, group=world.group)
    for rank, other in enumerate(everyone):
        if other == everyone[0]:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(everyone[0], other, strict=False)) if a != b),
            min(len(everyone[0]), len(other)),
        )
        a, b = ((lines + ["nothing"] * (at + 1))[at] for lines in (everyone[0], other))
        raise ValueError(f"ranks 0 and {rank} have different parameters: {a} against {b}")
