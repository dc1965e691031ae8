"""A small model through muond: alone, or with torchrun. MUOND_ENDPOINT names the daemon; STEPS how long."""

import os

import torch
import torch.distributed as dist

import muond

torch.manual_seed(0)
ranks = int(os.environ.get("WORLD_SIZE", "1"))
if ranks > 1:
    dist.init_process_group("gloo")
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
data = torch.randn(32, 64)
inner = torch.nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
opt = muond.Muon(inner, lr=0.02, adamw_lr=1e-3)
for step in range(1, int(os.environ.get("STEPS", "20")) + 1):
    opt.zero_grad()
    loss = (inner(data) - data).square().mean()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        print(f"step {step} loss {loss.item():.4f} endpoint {opt.endpoint}", flush=True)
opt.close()
if ranks > 1:
    dist.destroy_process_group()
