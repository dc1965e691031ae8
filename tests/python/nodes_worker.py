"""What the ranks of a job over several daemons run: rank r at the daemon that line r of FOLDER/endpoints names."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist
from ddp_worker import model_of, settings, start
from reference import batch, loss_of
from torch.nn.parallel import DistributedDataParallel

import muond


def train(rank: int, world: int, folder: str, steps: str, pause: str) -> None:
    """Trains, says each finished step in FOLDER/steps-R, and leaves its weights in FOLDER/weights-R.pt."""
    start(rank, world, folder)
    endpoint = (Path(folder) / "endpoints").read_text().split()[rank]
    model = model_of(seed=5 + rank)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    opt = muond.Muon(wrapped, endpoint=endpoint, **settings())
    with (Path(folder) / f"steps-{rank}").open("w") as said:
        for step in range(1, int(steps) + 1):
            opt.zero_grad()
            loss_of(wrapped, batch(100 * rank + step)).backward()
            opt.step()
            said.write(f"{step}\n")
            said.flush()
            time.sleep(float(pause))
    torch.save([p.detach().clone() for p in model.parameters()], f"{folder}/weights-{rank}.pt")
    opt.close()
    dist.destroy_process_group()
