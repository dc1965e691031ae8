"""Which parameters Muon gets, and which AdamW: the rule, the override, the table.

Muon is for matrices inside the network. Embeddings, the output head, norms, biases and everything that is not 2-D go to AdamW.
A convolution's weight can be routed to Muon by the caller; it is then seen as (out, rest).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

# Called with a parameter's name and the parameter: True for Muon, False for AdamW, None for the rule's choice.
Route = Callable[[str, torch.Tensor], "bool | None"]

_HEAD_NAMES = {
    "lm_head",
    "head",
    "output",
    "classifier",
    "score",
    "embed_out",
    "unembed",
    "unembedding",
    "output_projection",
    "heads",
}
_EMBEDDING_NAME = re.compile(
    r"(^|[._])(\w*embed\w*|wte|wpe|pos_emb|tok_emb)([._]|$)", re.IGNORECASE
)
_NORM_NAME = re.compile(r"norm|(^|[._])ln(_\w+|\d*)?[._]", re.IGNORECASE)


@dataclass(frozen=True)
class Routed:
    """One parameter's place, with the reason in a few words."""

    name: str
    parameter: torch.Tensor
    use_muon: bool
    reason: str


def by_name(name: str, parameter: torch.Tensor) -> tuple[bool, str]:
    """The rule where only name and shape are known."""
    if parameter.ndim < 2:
        return False, "bias" if name.endswith("bias") else "vector"
    if _EMBEDDING_NAME.search(name):
        return False, "embedding"
    if any(part in _HEAD_NAMES for part in name.split(".")[:-1]):
        return False, "head"
    if _NORM_NAME.search(name):
        return False, "norm"
    if parameter.ndim > 2:
        return False, f"{parameter.ndim}-D"
    return True, "matrix"


def _head_by_shape(model: nn.Module) -> nn.Module | None:
    """The last Linear, if it has as many outputs as an embedding of the model has entries."""
    sizes = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if linears and linears[-1].out_features in sizes:
        return linears[-1]
    return None


def _strip(name: str) -> str:
    """A name without what wrappers (DDP, compile) put before it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _decide(
    name: str, parameter: torch.Tensor, rule: tuple[bool, str], route: Route | None
) -> Routed:
    chosen = route(name, parameter) if route is not None else None
    if chosen is None:
        return Routed(name, parameter, *rule)
    if chosen and parameter.ndim < 2:
        raise ValueError(
            f"route() sends {name} to Muon, but its shape is {tuple(parameter.shape)}: Muon needs a "
            "matrix, or more dimensions that flatten to (first, rest)"
        )
    return Routed(name, parameter, bool(chosen), "route()")


def route_model(model: nn.Module, route: Route | None = None) -> list[Routed]:
    """Every parameter of ``model`` once (tied ones under their first name), in its order."""
    head = _head_by_shape(model)
    owners: dict[torch.Tensor, list[nn.Module]] = {}
    names: dict[torch.Tensor, str] = {}
    for prefix, module in model.named_modules(remove_duplicate=True):
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
            names.setdefault(parameter, _strip(f"{prefix}.{leaf}" if prefix else leaf))
    routed = []
    for parameter in model.parameters():
        name, rule = names[parameter], by_name(names[parameter], parameter)
        if not name.endswith("bias"):
            for owner in owners[parameter]:
                if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
                    rule = (False, "embedding")
                elif owner is head:
                    rule = (False, "head")
                elif "norm" in type(owner).__name__.lower():
                    rule = (False, "norm")
                else:
                    continue
                break
        routed.append(_decide(name, parameter, rule, route))
    return routed


def route_named(
    named: Iterable[tuple[str, torch.Tensor]], route: Route | None = None
) -> list[Routed]:
    """The same from names and shapes alone; a parameter that comes twice counts once."""
    routed, seen = [], set()
    for name, parameter in named:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            routed.append(_decide(_strip(name), parameter, by_name(name, parameter), route))
    return routed


def table(routed: Iterable[Routed]) -> str:
    """The routing as text, layers of equal shape on one line."""
    lines: dict[tuple[str, tuple[int, ...], bool, str], tuple[int, int]] = {}
    for item in routed:
        pattern = re.sub(r"\d+", "*", item.name)
        key = (pattern, tuple(item.parameter.shape), item.use_muon, item.reason)
        count, elements = lines.get(key, (0, 0))
        lines[key] = (count + 1, elements + item.parameter.numel())
    width = max([len(key[0]) for key in lines] + [len("parameter")])
    text = [f"{'parameter':<{width}}  {'shape':<20} {'count':>5} {'elements':>13}  rule   because"]
    totals = {True: [0, 0], False: [0, 0]}
    for (pattern, shape, use_muon, reason), (count, elements) in lines.items():
        dims = " x ".join(map(str, shape)) or "scalar"
        rule = "muon" if use_muon else "adamw"
        text.append(
            f"{pattern:<{width}}  {dims:<20} {count:>5} {elements:>13,}  {rule:<5}  {reason}"
        )
        totals[use_muon][0] += count
        totals[use_muon][1] += elements
    text.append(
        f"muond: {totals[True][0]} tensors ({totals[True][1]:,} elements) to Muon, "
        f"{totals[False][0]} ({totals[False][1]:,}) to AdamW"
    )
    return "\n".join(text)
