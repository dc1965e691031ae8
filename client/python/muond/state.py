"""Optimizer state that lives in another process, in the shape of torch's.

``opt.state[p]`` is a mapping with torch's own keys. Reading a key fetches, assigning pushes; before the first step, and where there is no daemon
any more, values are kept here. ``state_dict()`` turns these mappings into plain dicts of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch

from . import _library as lib
from . import dtensors

MUON_KEYS = {"momentum_buffer": lib.STATE_MOMENTUM}
ADAMW_KEYS = {
    "step": lib.STATE_STEP,
    "exp_avg": lib.STATE_EXP_AVG,
    "exp_avg_sq": lib.STATE_EXP_AVG_SQ,
}

Fetch = Callable[[torch.Tensor, int], "torch.Tensor | None"]
Push = Callable[[torch.Tensor, int, torch.Tensor], bool]


class RemoteState(MutableMapping[str, Any]):
    """State of one parameter: torch.optim.Muon's or torch.optim.AdamW's keys, always all of them.

    ``fetch(parameter, field)`` returns a new fp32 tensor (float64 scalar for the step), or None while the parameter is not with a daemon;
    ``push`` returns False then.
    """

    def __init__(self, parameter: torch.Tensor, use_muon: bool, fetch: Fetch, push: Push) -> None:
        self._parameter = parameter
        self._keys = MUON_KEYS if use_muon else ADAMW_KEYS
        self._fetch, self._push = fetch, push
        self._kept: dict[str, torch.Tensor] = {}
        self._others: dict[str, Any] = {}

    def _zeros(self, key: str) -> torch.Tensor:
        if key == "step":
            return torch.tensor(0.0)
        return torch.zeros_like(self._parameter, memory_format=torch.contiguous_format)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            return self._others[key]
        value = self._fetch(self._parameter, self._keys[key])
        if value is None:
            value = self._kept.get(key)
            return self._zeros(key) if value is None else value.clone()
        return value.to(torch.float32).reshape(()) if key == "step" else value

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._keys:
            self._others[key] = value
            return
        tensor = torch.as_tensor(value, dtype=torch.float32).detach()
        shape = torch.Size(()) if key == "step" else self._parameter.shape
        if tensor.shape != shape and not (key == "step" and tensor.numel() == 1):
            raise ValueError(
                f"state {key} has shape {tuple(tensor.shape)}, its parameter {tuple(shape)}"
            )
        if key == "step":
            tensor = dtensors.local_of(tensor).reshape(shape)
        else:
            tensor = dtensors.like(self._parameter, tensor)
        if not self._push(self._parameter, self._keys[key], tensor):
            self._kept[key] = tensor.clone(memory_format=torch.contiguous_format)

    def __delitem__(self, key: str) -> None:
        if key in self._keys:
            raise KeyError(f"{key} is state of the optimizer and cannot be deleted")
        del self._others[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._keys
        yield from self._others

    def __len__(self) -> int:
        return len(self._keys) + len(self._others)

    def plain(self) -> dict[str, Any]:
        """A dict of tensors of its own, as torch's optimizers hold it."""
        return {key: self[key] for key in self}

    def push_kept(self) -> None:
        """After an attach: what was kept here goes to the daemon. Zeros are there already."""
        for key, tensor in list(self._kept.items()):
            zeros = not torch.count_nonzero(dtensors.local_of(tensor))
            if zeros or self._push(self._parameter, self._keys[key], tensor):
                del self._kept[key]

    def keep(self) -> None:
        """Before the daemon is left for another: its values come here."""
        self._kept = {key: self[key] for key in self._keys}


def join_state_dicts(*state_dicts: dict[str, Any]) -> dict[str, Any]:
    """One state dict from those of several optimizers, in the order of their groups.

    ``join_state_dicts(torch_muon.state_dict(), torch_adamw.state_dict())`` loads into a ``muond.Muon`` whose groups come in that order.
    """
    state: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    first = 0
    for state_dict in state_dicts:
        count = 0
        for group in state_dict["param_groups"]:
            groups.append({**group, "params": [index + first for index in group["params"]]})
            count += len(group["params"])
        state.update({index + first: value for index, value in state_dict["state"].items()})
        first += count
    return {"state": state, "param_groups": groups}


def split_state_dict(state_dict: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts for torch.optim.Muon and torch.optim.AdamW of a ``muond.Muon`` state dict."""
    parts = []
    for use_muon in (True, False):
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        count = 0
        for group in state_dict["param_groups"]:
            if bool(group.get("use_muon", "momentum" in group)) != use_muon:
                continue
            for position, index in enumerate(group["params"]):
                if index in state_dict["state"]:
                    state[count + position] = state_dict["state"][index]
            renumbered = list(range(count, count + len(group["params"])))
            kept = {k: v for k, v in group.items() if k != "use_muon"}
            groups.append({**kept, "params": renumbered})
            count += len(group["params"])
        parts.append({"state": state, "param_groups": groups})
    return parts[0], parts[1]
