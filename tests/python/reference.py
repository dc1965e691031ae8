"""torch.optim.Muon's update written out, with the polynomial in any precision; models and gradients for tests."""

from __future__ import annotations

import math

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(
    u: torch.Tensor, steps: int = 5, eps: float = 1e-7, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Newton-Schulz as in torch.optim.Muon, every operation in ``dtype``."""
    a, b, c = COEFFICIENTS
    x = u.to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class ReferenceMuon(torch.optim.Optimizer):
    """torch.optim.Muon with the polynomial in fp32 (or fp64) instead of bf16. Muon's groups only."""

    def __init__(
        self,
        params,
        lr=1e-3,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=True,
        scale="original",
        dtype=torch.float32,
    ):
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov},
        )
        self.scale, self.dtype = scale, dtype

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.reshape(p.shape[0], -1)
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(g))
                buffer.lerp_(g, 1 - group["momentum"])
                u = g.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
                x = orthogonalize(u, dtype=self.dtype)
                m, n = g.shape
                ratio = {
                    "original": math.sqrt(max(1, m / n)),
                    "match_rms_adamw": 0.2 * math.sqrt(max(m, n)),
                    "spectral_unclamped": math.sqrt(m / n),
                }[self.scale]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((group["lr"] * ratio * x).to(p.dtype).reshape(p.shape))


# Odd, tall, wide, a row, a column, one element, and sizes around 8 and 64.
SHAPES = [
    (33, 17),
    (129, 31),
    (31, 129),
    (1, 40),
    (40, 1),
    (1, 1),
    (64, 64),
    (65, 63),
    (8, 8),
    (7, 200),
]


def matrices(seed: int = 1, shapes=SHAPES) -> list[nn.Parameter]:
    """Parameters of the given shapes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator) * 0.1) for s in shapes]


def vectors(seed: int = 2) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(s, generator=generator)) for s in [(1,), (17,), (300,), (5, 7), ()]
    ]


def set_gradients(params: list[nn.Parameter], step: int, seed: int = 3) -> None:
    """Gradients that depend on the step alone, of a size that changes with it."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** ((step % 5) - 3)


def clone_of(params: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


class SmallModel(nn.Module):
    """Embedding tied to the head, odd shapes, a norm, a conv, a frozen and an unused parameter."""

    def __init__(self, vocabulary: int = 37, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.up = nn.Linear(width, 51)
        self.norm = nn.LayerNorm(51)
        self.down = nn.Linear(51, width, bias=False)
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.ones(width, width), requires_grad=False)
        self.unused = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = x + self.down(torch.relu(self.norm(self.up(x))))
        x = self.mix(x.transpose(1, 2)).transpose(1, 2) @ self.frozen
        return self.head(x)


def batch(step: int, size: int = 4, length: int = 9, vocabulary: int = 37) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, vocabulary, (size, length), generator=generator)


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
