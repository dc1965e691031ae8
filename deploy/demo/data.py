"""Real text that every machine has: the sources of Python's own standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch


def corpus(bytes_max: int) -> torch.Tensor:
    """The first ``bytes_max`` bytes of the library's modules in the order of their names, as int64 [bytes]."""
    library = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "lib2to3"}
    pieces, size = [], 0
    for path in sorted(library.rglob("*.py")):
        if skip.isdisjoint(path.relative_to(library).parts) and size < bytes_max:
            pieces.append(path.read_bytes())
            size += len(pieces[-1])
    text = b"".join(pieces)[:bytes_max]
    if len(text) < 100_000:
        raise RuntimeError(f"{library} holds {len(text)} bytes of Python sources, at least 100000 are needed")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


class Batches:
    """Random windows of the text, the same for every optimizer: a function of (seed, step, rank)."""

    def __init__(self, text: torch.Tensor, context: int, batch: int, seed: int) -> None:
        self.context, self.batch, self.seed = context, batch, seed
        cut = len(text) - len(text) // 20
        self.training, self.held_out = text[:cut], text[cut:]

    def draw(self, step: int, rank: int, *, held_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and targets, [batch, context] each."""
        text = self.held_out if held_out else self.training
        generator = torch.Generator().manual_seed(((self.seed * 2 + held_out) * 1_000_003 + step) * 64 + rank)
        starts = torch.randint(len(text) - self.context - 1, (self.batch, 1), generator=generator)
        windows = text[starts + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]
