"""Parameter groups: torch's keys for each rule, what may be in them, and what of them travels when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import _library as lib

# torch.optim.AdamW's keys that have one value here; there so that state dicts go both ways.
_ADAMW_FIXED = {
    "amsgrad": False,
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
}


_MUON_KEYS = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")  # fmt: skip
_ADAMW_KEYS = ("lr", "betas", "eps", "weight_decay")


def complete(group: dict[str, Any], muon: dict[str, Any], adamw: dict[str, Any]) -> dict[str, Any]:
    """``group`` with ``use_muon`` and the defaults of its rule. TypeError, ValueError for a rule that is not clear."""
    use_muon = group.get("use_muon", True)
    if use_muon not in (True, False):
        raise TypeError(f"use_muon must be True or False, not {use_muon!r}")
    use_muon = bool(use_muon)
    if "use_muon" not in group and "betas" in group:
        raise ValueError("a group with betas, which are AdamW's, must say use_muon=False")
    defaults = muon if use_muon else {**adamw, **_ADAMW_FIXED}
    return {**defaults, **group, "use_muon": use_muon}


def number(value: float | Tensor, what: str) -> float:
    """ValueError or TypeError for what is not one number."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {what} must be 1-element")
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {value!r}")
    return float(value)


def validate(group: dict[str, Any]) -> None:
    """torch's rejections, in torch's words; ValueError."""
    lr = number(group["lr"], "lr")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
    if not 0.0 <= number(group["weight_decay"], "weight_decay") < math.inf:
        raise ValueError(f"weight decay should be >= 0 but is: {group['weight_decay']}")
    if group["use_muon"]:
        _validate_muon(group)
    else:
        _validate_adamw(group)


def _validate_muon(group: dict[str, Any]) -> None:
    if not 0.0 <= number(group["momentum"], "momentum") < math.inf:
        raise ValueError(f"momentum should be >= 0 but is: {group['momentum']}")
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in lib.SCALES:
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if not isinstance(group["ns_steps"], int):
        raise TypeError(f"ns_steps must be an int, not {group['ns_steps']!r}")
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if group["ns_steps"] < 1:
        raise ValueError(f"ns_steps should be >= 1 but is: {group['ns_steps']}")
    if not math.isfinite(number(group["eps"], "eps")):
        raise ValueError(f"eps should be finite but is: {group['eps']}")
    coefficients = group["ns_coefficients"]
    if isinstance(coefficients, str):
        return
    if len(coefficients) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    for value in coefficients:
        number(value, "each of the 3 coefficients")


def _validate_adamw(group: dict[str, Any]) -> None:
    if not 0.0 <= number(group["eps"], "eps") < math.inf:
        raise ValueError(f"Invalid epsilon value: {group['eps']}")
    if not isinstance(group["betas"], Sequence) or len(group["betas"]) != 2:
        raise ValueError(f"betas must be two numbers, not {group['betas']!r}")
    for i, beta in enumerate(group["betas"]):
        if not 0.0 <= float(beta) < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    for key, value in _ADAMW_FIXED.items():
        if key in ("amsgrad", "maximize", "differentiable") and group.get(key, value):
            raise ValueError(f"{key}=True is not supported for AdamW groups of muond")


def clip_of(clip_norm: float | Tensor | None) -> float:
    """The clip norm as the daemon takes it, 0 for none; ValueError."""
    norm = 0.0 if clip_norm is None else number(clip_norm, "clip_norm")
    if not norm >= 0.0:
        raise ValueError(f"clip_norm should be > 0 but is: {norm}")
    return 0.0 if math.isinf(norm) else norm


def scalars_of(group: dict[str, Any]) -> lib.Scalars:
    """What may change from step to step."""
    beta1, beta2 = map(float, group.get("betas", (0.0, 0.0)))
    return lib.Scalars(
        lr=number(group["lr"], "lr"),
        weight_decay=float(group["weight_decay"]),
        momentum=float(group.get("momentum", 0.0)),
        eps=float(group["eps"]),
        beta1=beta1,
        beta2=beta2,
        nesterov=int(bool(group.get("nesterov", False))),
    )


def statics_of(param_groups: list[dict[str, Any]]) -> list[Any]:
    """What is part of the manifest: when it changes, the job has to be joined anew."""
    keys = ("use_muon", "ns_coefficients", "ns_steps", "adjust_lr_fn")
    return [
        (tuple(id(p) for p in group["params"]), *(group.get(key) for key in keys))
        for group in param_groups
    ]


def check_loaded(index: int, group: dict[str, Any], saved: dict[str, Any]) -> None:
    """ValueError unless ``saved``, a group of a state dict, is one for ``group``'s rule."""
    use_muon = group["use_muon"]
    if ("momentum" in saved) != use_muon and ("betas" in saved) == use_muon:
        raise ValueError(
            f"group {index} of the loaded state dict is {'AdamW' if use_muon else 'Muon'}'s, and "
            f"{'Muon' if use_muon else 'AdamW'}'s here"
        )
    needed = _MUON_KEYS if use_muon else _ADAMW_KEYS
    missing = [key for key in needed if key not in saved]
    if missing:
        raise ValueError(
            f"group {index} of the loaded state dict has no {', '.join(missing)}: it is not of "
            f"{'Muon' if use_muon else 'AdamW'}"
        )
