"""What a trajectory is held against: torch's two optimizers for tensors of any shape, and the same formulas in any precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from reference import COEFFICIENTS
from torch import nn


class ExactMuon(torch.optim.Optimizer):
    """torch.optim.Muon's formulas in the parameters' own precision; tensors of more dimensions as (first, rest)."""

    def __init__(self, params: Iterable[Any], **defaults: Any) -> None:
        known = {"lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "eps": 1e-7}
        more = {"ns_coefficients": COEFFICIENTS, "ns_steps": 5, "adjust_lr_fn": None}
        super().__init__(params, {**known, **more, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)

    def _step(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - group["momentum"])
        u = p.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        x = u.reshape(p.shape[0], -1)
        m, n = x.shape
        x = x.T if m > n else x
        x = x / x.norm().clamp(min=group["eps"])
        a, b, c = group["ns_coefficients"]
        for _ in range(group["ns_steps"]):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(m, n))
        else:
            ratio = math.sqrt(max(1, m / n))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(group["lr"] * ratio * (x.T if m > n else x).reshape(p.shape))


class FlatMuon(torch.optim.Muon):
    """torch.optim.Muon that sees a convolution's weight as the (first, rest) matrix that it is in memory."""

    def __init__(self, groups: list[dict[str, Any]], **defaults: Any) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        super().__init__([self._flat(group) for group in groups], **defaults)

    def _flat(self, group: dict[str, Any]) -> dict[str, Any]:
        pairs = [(p, nn.Parameter(p.detach().view(p.shape[0], -1))) for p in group["params"]]
        self._pairs += pairs
        return {**group, "params": [flat for _, flat in pairs]}

    def add_group(self, group: dict[str, Any]) -> None:
        self.add_param_group(self._flat(group))

    def step(self, closure: Callable[[], float] | None = None) -> None:
        for p, flat in self._pairs:
            flat.grad = None if p.grad is None else p.grad.view(flat.shape)
        super().step()


class Twins:
    """Muon for some groups and AdamW for the others, from torch (bfloat16 products) or in float64."""

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any], exact: bool) -> None:
        muon = [_without_rule(group) for group in groups if group.get("use_muon", True)]
        rest = [_without_rule(group) for group in groups if not group.get("use_muon", True)]
        settings = {k: v for k, v in defaults.items() if not k.startswith("adamw_")}
        for_rest = {k.removeprefix("adamw_"): v for k, v in defaults.items() if k not in settings}
        self.muon = (ExactMuon if exact else FlatMuon)(muon, **settings)
        kind = {"foreach": False} if exact else {"fused": True}
        self.rest = torch.optim.AdamW(rest, **kind, **for_rest) if rest else None
        self.all = [opt for opt in (self.muon, self.rest) if opt is not None]

    def add_param_group(self, group: dict[str, Any]) -> None:
        if not group.get("use_muon", True):
            self.rest.add_param_group(_without_rule(group))
        elif isinstance(self.muon, FlatMuon):
            self.muon.add_group(_without_rule(group))
        else:
            self.muon.add_param_group(_without_rule(group))

    def step(self, closure: Callable[[], float]) -> None:
        with torch.enable_grad():
            closure()
        for opt in self.all:
            opt.step()


def _without_rule(group: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k != "use_muon"}
