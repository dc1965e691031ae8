"""Which parameters Muon gets, and which AdamW: the rule, the override, the table.

Muon is for matrices inside the network. Embeddings, the output head, norms, biases and everything that is not 2-D go to AdamW.
A convolution's weight can be routed to Muon by the caller; it is then seen as (out, rest).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

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
    note: str = ""  # why somebody should look at it again


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
    """A name without what wrappers (DDP, compile, activation checkpointing) put into it."""
    name = name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
    return name.removeprefix("module.")


def _decide(
    name: str, parameter: torch.Tensor, rule: tuple[bool, str], route: Route | None
) -> Routed:
    chosen = route(name, parameter) if route is not None else None
    if chosen is None:
        return Routed(name, parameter, *rule)
    if chosen not in (True, False):
        raise TypeError(f"route() says {chosen!r} for {name}; True, False or None is needed")
    if chosen and parameter.ndim < 2:
        raise ValueError(
            f"route() sends {name} to Muon, but its shape is {tuple(parameter.shape)}: Muon needs a "
            "matrix, or more dimensions that flatten to (first, rest)"
        )
    against = chosen and rule[1] in ("embedding", "head", "norm")
    note = f"by its name or module it is a {rule[1]}, which AdamW suits better" if against else ""
    return Routed(name, parameter, bool(chosen), "route()", note)


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
    return _mark_last(model, routed)


def _mark_last(model: nn.Module, routed: list[Routed]) -> list[Routed]:
    """Notes a last Linear that may be the head: no head was found, and no other layer is like it."""
    linears = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    if not linears or any(item.reason == "head" for item in routed):
        return routed
    kinds = [_kind(item) for item in routed]
    for i, item in enumerate(routed):
        alone = kinds.count(kinds[i]) == 1 and len(linears) > 1
        if item.parameter is linears[-1] and item.reason == "matrix" and alone:
            note = "the last Linear: if it is the output head, AdamW suits it better"
            routed[i] = replace(item, note=note)
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


def _kind(item: Routed) -> tuple[object, ...]:
    """What parameters share that stand on one line of the table."""
    pattern = re.sub(r"\d+", "*", item.name)
    frozen = not item.parameter.requires_grad
    return pattern, tuple(item.parameter.shape), item.use_muon, item.reason, frozen


def _name_of_all(names: list[str]) -> str:
    """One name for several that differ in numbers only: ``h.0-11.mlp.2.weight``."""
    columns = list(zip(*(re.findall(r"\d+", name) for name in names), strict=True))
    texts = []
    for column in columns:
        numbers = sorted({int(number) for number in column})
        whole = numbers == list(range(numbers[0], numbers[-1] + 1))
        range_text = f"{numbers[0]}-{numbers[-1]}" if whole else "*"
        texts.append(column[0] if len(numbers) == 1 else range_text)
    following = iter(texts)
    return re.sub(r"\d+", lambda _: next(following), names[0])


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _note_of(item: Routed) -> str:
    if item.note or not item.use_muon:
        return item.note
    rows = item.parameter.shape[0]
    if rows == 1 or item.parameter.numel() == rows:
        return "a vector in the shape of a matrix: Muon only normalises it, AdamW suits it better"
    return ""


def table(routed: Iterable[Routed]) -> str:
    """The routing as text: parameters that differ in numbers of their names only on one line; below it what looks odd."""
    lines: dict[tuple[object, ...], list[Routed]] = {}
    for item in routed:
        lines.setdefault(_kind(item), []).append(item)
    names = [_name_of_all([item.name for item in items]) for items in lines.values()]
    width = max([len(name) for name in names] + [len("parameter")])
    text = [f"{'parameter':<{width}}  {'shape':<20} {'count':>5} {'elements':>13}  rule   because"]
    notes = []
    totals = {True: [0, 0], False: [0, 0]}
    for name, items in zip(names, lines.values(), strict=True):
        first = items[0]
        elements = len(items) * first.parameter.numel()
        because = first.reason + ("" if first.parameter.requires_grad else ", frozen")
        text.append(
            f"{name:<{width}}  {_shape_text(tuple(first.parameter.shape)):<20} {len(items):>5} "
            f"{elements:>13,}  {'muon' if first.use_muon else 'adamw':<5}  {because}"
        )
        if note := _note_of(first):
            notes.append(f"note: {name} goes to Muon: {note}")
        totals[first.use_muon][0] += len(items)
        totals[first.use_muon][1] += elements
    if notes:
        notes.append('note: route=lambda name, p: False if name == "..." else None changes it')
    text.append(
        f"muond: {totals[True][0]} tensors ({totals[True][1]:,} elements) to Muon, "
        f"{totals[False][0]} ({totals[False][1]:,}) to AdamW"
    )
    return "\n".join(text + notes)
