"""A small transformer under FSDP2, as people train one: what its ranks run for test_network.py, beside mesh_worker's scenarios."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mesh_worker import gathered, whole
from reference import batch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import muond

STEPS, THAWED_AT, VOCABULARY, WIDTH = 16, 6, 37, 20


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 51), nn.Linear(51, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attention(self.norm1(x)).chunk(3, -1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Network(nn.Module):
    """Embedding tied to the head; the second block's attention is frozen at first; one parameter is never used."""

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        blocks = [Block(), Block()]
        blocks[1].attention.requires_grad_(False)
        self.blocks = nn.ModuleList(map(checkpoint_wrapper, blocks) if recompute else blocks)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.ones(5, 3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def thaw(model: Network) -> None:
    for p in model.blocks[1].parameters():
        p.requires_grad_(True)


def loss_of(model: nn.Module, step: int, part: int | None, parts: int = 2) -> torch.Tensor:
    """On one rank's part of the step's batch, or on all of it."""
    tokens = batch(step % 5, size=8, length=12)
    if part is not None:
        tokens = tokens.chunk(parts)[part]
    logits = model(tokens[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def settings() -> dict:
    return {"lr": 0.02, "adamw_lr": 3e-3, "verbose": False}


def trained() -> dict:
    """FSDP2 with recomputation, clipped by torch, thawed on the way; every reduced gradient is written down."""
    model = Network(recompute=True)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    opt = muond.Muon(model, **settings())
    losses, gradients = [], []
    for step in range(STEPS):
        if step == THAWED_AT:
            thaw(model)
        opt.zero_grad()
        loss = loss_of(model, step, dist.get_rank(), dist.get_world_size())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        gradients.append([_full(p.grad) for p in model.parameters()])
        opt.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
    names = [
        opt._name_of(p, g, i)
        for g, h in enumerate(opt.param_groups)
        for i, p in enumerate(h["params"])
    ]
    result = {
        "losses": losses,
        "gradients": gradients,
        "names": names,
        "weights": list(gathered(model).values()),
        "state": whole(opt.state_dict()),
    }
    opt.close()
    return result


def _full(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
