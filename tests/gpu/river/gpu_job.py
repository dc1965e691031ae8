"""A training job on a GPU as a process of its own, for tests that kill things: deterministic, and it writes down what it ends with.

    python gpu_job.py OUT STEPS [PAUSE_SECONDS]

Prints "step N ENDPOINT" after each step was handed over. The environment chooses variants: JOB_RANK, JOB_WORLD, JOB_STORE (DDP over
gloo, which several processes may run on one GPU), JOB_DEVICE (cuda:0), JOB_DATA_PARALLEL, JOB_NAN (a step whose gradient gets a NaN).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import torch.nn.functional as F
from torch import nn

import muond

WIDTH, ENTRIES, LENGTH, BATCH = 256, 512, 64, 8


class Block(nn.Module):
    """A gated perceptron with a mixing of positions: every rule has something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        h = h + self.mix(h.cumsum(dim=1) / 8)
        return x + self.down(F.gelu(self.up(h)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(ENTRIES, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, ENTRIES, bias=False)
        self.never = nn.Parameter(torch.ones(8, 8))  # no gradient: it must not move

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


def model_of(device: str, seed: int = 3) -> Model:
    torch.manual_seed(seed)
    return Model().to(device)


def batch(step: int, rank: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    tokens = torch.randint(ENTRIES, (BATCH, LENGTH), generator=generator)
    tokens[:, 1::2] = (tokens[:, ::2] * 7 + 1) % ENTRIES  # something to learn
    return tokens.to(device)


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


SETTINGS = {"lr": 0.02, "adamw_lr": 2e-3, "clip_norm": 1.0}


def train(
    steps: int,
    *,
    device: str = "cuda:0",
    endpoint: str | None = None,
    pause: float = 0.0,
    rank: int = 0,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    say: Callable[[str], None] = str,
    nan_at: int = 0,
    **options: object,
) -> dict:
    """The whole job; what it ends with, on the host."""
    torch.use_deterministic_algorithms(True)
    model = model_of(device)
    wrapped = wrap(model)
    opt = muond.Muon(wrapped, endpoint=endpoint, verbose=False, **{**SETTINGS, **options})
    losses, longest, told = [], 0.0, []
    for step in range(1, steps + 1):
        began = time.monotonic()
        opt.zero_grad()
        loss = loss_of(wrapped, batch(step, rank, device))
        loss.backward()
        if step == nan_at:
            model.blocks[0].up.weight.grad[0, 0] = float("nan")
        try:
            opt.step()
        except muond.NonFiniteGradientError as error:
            told.append((step, error.step, str(error)))
        losses.append(loss.detach())
        if pause:
            float(losses[-1])  # the host waits for the GPU, as jobs that log do
            time.sleep(pause)
        say(f"step {step} {opt.endpoint}")
        if step > 2:
            longest = max(longest, time.monotonic() - began)
    began = time.monotonic()
    opt.synchronize()
    longest = max(longest, time.monotonic() - began)
    state = opt.state_dict()
    inside = options.get("daemon", "auto") is None
    reconnects = 0 if inside else opt._attachment.session.info().reconnects
    opt.close()
    return {
        "weights": {name: p.detach().cpu() for name, p in model.named_parameters()},
        "state": {
            k: {n: torch.as_tensor(v).cpu() for n, v in s.items()}
            for k, s in state["state"].items()
        },
        "losses": torch.stack(losses).cpu(),
        "longest": longest,
        "reconnects": reconnects,
        "told": told,
    }


def main(out: str, steps: int, pause: float) -> None:
    device = os.environ.get("JOB_DEVICE", "cuda:0")
    rank, world = int(os.environ.get("JOB_RANK", 0)), int(os.environ.get("JOB_WORLD", 1))
    torch.cuda.set_device(device)
    options: dict = {}
    wrap = None
    if world > 1:
        import torch.distributed as dist

        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo", init_method=f"file://{os.environ['JOB_STORE']}", rank=rank, world_size=world
        )

        def wrap(model: nn.Module) -> nn.Module:  # Model.never has no gradient
            return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

        if "JOB_DATA_PARALLEL" in os.environ:
            options["data_parallel"] = os.environ["JOB_DATA_PARALLEL"]
    end = train(
        steps,
        device=device,
        pause=pause,
        rank=rank,
        wrap=wrap or (lambda model: model),
        say=lambda line: print(line, flush=True),
        nan_at=int(os.environ.get("JOB_NAN", 0)),
        **options,
    )
    torch.save(end, out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
