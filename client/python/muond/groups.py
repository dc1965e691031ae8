"""Parameter groups: torch's keys for each rule, what may be in them, and what of them travels when."""

from __future__ import annotations

import math
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


def complete(group: dict[str, Any], muon: dict[str, Any], adamw: dict[str, Any]) -> dict[str, Any]:
    """``group`` with ``use_muon`` and the defaults of its rule."""
    use_muon = bool(group.get("use_muon", True))
    defaults = muon if use_muon else {**adamw, **_ADAMW_FIXED}
    return {**defaults, **group, "use_muon": use_muon}


def _number(value: float | Tensor, what: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {what} must be 1-element")
    return float(value)


def validate(group: dict[str, Any]) -> None:
    """torch's rejections, in torch's words; ValueError."""
    lr = _number(group["lr"], "lr")
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
    if not 0.0 <= group["weight_decay"] < math.inf:
        raise ValueError(f"weight decay should be >= 0 but is: {group['weight_decay']}")
    if group["use_muon"]:
        _validate_muon(group)
    else:
        _validate_adamw(group)


def _validate_muon(group: dict[str, Any]) -> None:
    if not 0.0 <= group["momentum"] < math.inf:
        raise ValueError(f"momentum should be >= 0 but is: {group['momentum']}")
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in lib.SCALES:
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if group["ns_steps"] < 1:
        raise ValueError(f"ns_steps should be >= 1 but is: {group['ns_steps']}")
    if not math.isfinite(group["eps"]):
        raise ValueError(f"eps should be finite but is: {group['eps']}")
    coefficients = group["ns_coefficients"]
    if not isinstance(coefficients, str) and len(coefficients) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")


def _validate_adamw(group: dict[str, Any]) -> None:
    if not 0.0 <= group["eps"] < math.inf:
        raise ValueError(f"Invalid epsilon value: {group['eps']}")
    for i, beta in enumerate(group["betas"]):
        if not 0.0 <= float(beta) < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    for key, value in _ADAMW_FIXED.items():
        if key in ("amsgrad", "maximize", "differentiable") and group.get(key, value):
            raise ValueError(f"{key}=True is not supported for AdamW groups of muond")


def clip_of(clip_norm: float | Tensor | None) -> float:
    """The clip norm as the daemon takes it, 0 for none; ValueError."""
    norm = 0.0 if clip_norm is None else _number(clip_norm, "clip_norm")
    if not norm >= 0.0:
        raise ValueError(f"clip_norm should be > 0 but is: {norm}")
    return 0.0 if math.isinf(norm) else norm


def scalars_of(group: dict[str, Any]) -> lib.Scalars:
    """What may change from step to step."""
    beta1, beta2 = map(float, group.get("betas", (0.0, 0.0)))
    return lib.Scalars(
        lr=_number(group["lr"], "lr"),
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
