"""What a job leaves behind: nothing, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import alive, children, eventually, keeper_of, program_of, read_steps, start_job
from torch import nn

import muond


def _folder(endpoint: str) -> Path:
    return Path(endpoint.removeprefix("unix:")).parent


def _shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "muond" in name}


def _daemons() -> list[int]:
    """Daemons that this process has started."""
    return sorted(child for child in children(os.getpid()) if program_of(child) == "muond")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_job_leaves_no_process_file_or_memory(how, tmp_path):
    before = _shared_memory()
    job = start_job(tmp_path / "end.pt", 10_000)
    endpoint = read_steps(job, 2)
    keeper = keeper_of(job.pid)
    daemon = [keeper, *children(keeper)]
    assert len(daemon) == 2
    assert _folder(endpoint).is_dir()
    job.send_signal(how)
    job.communicate(timeout=400)
    assert eventually(lambda: not any(alive(pid) for pid in daemon)), [
        program_of(p) for p in daemon
    ]
    assert eventually(lambda: not _folder(endpoint).exists()), list(_folder(endpoint).iterdir())
    assert _shared_memory() == before


def test_a_job_that_just_ends_leaves_nothing(tmp_path):
    script = (
        "import torch, muond\n"
        "p = torch.nn.Parameter(torch.ones(3, 3)); p.grad = torch.ones(3, 3)\n"
        "opt = muond.Muon([p]); opt.step(); print(opt.endpoint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    loud = [line for line in done.stderr.splitlines() if not line.startswith("muond: waiting for")]
    assert loud == [], "nothing is said but what a slow machine is told"
    assert eventually(lambda: not _folder(done.stdout.strip()).exists())


def test_close_ends_the_daemon_and_gives_descriptors_and_mappings_back():
    p = nn.Parameter(torch.ones(30, 30))

    def once() -> tuple[int, int]:
        opt = muond.Muon([p], lr=0.01)
        p.grad = torch.ones(30, 30)
        opt.step()
        assert opt.endpoint
        opt.close()
        maps = sum("muond" in line for line in Path("/proc/self/maps").read_text().splitlines())
        return len(os.listdir("/proc/self/fd")), maps

    before = _daemons()
    once()
    first = once()
    assert once() == first
    assert _daemons() == before


def test_an_optimizer_that_is_dropped_leaves_its_job():
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = torch.ones(3, 3)
    before = _daemons()
    opt = muond.Muon([p], lr=0.5)
    opt.step()
    assert len(_daemons()) == len(before) + 1
    value = p.detach().clone()
    del opt
    assert eventually(lambda: _daemons() == before)
    assert torch.equal(p, value), "the parameter's memory outlives the daemon"


def test_data_loader_workers_neither_disturb_nor_keep_the_daemon(tmp_path):
    script = (
        "import os, sys, torch, muond\n"
        "from torch.utils.data import DataLoader\n"
        "p = torch.nn.Parameter(torch.ones(3, 3)); p.grad = torch.ones(3, 3)\n"
        "opt = muond.Muon([p]); opt.step()\n"
        "loader = DataLoader(list(range(64)), num_workers=2, persistent_workers=True)\n"
        "for batch in loader:\n"
        "    opt.step()\n"
        "print(opt.endpoint, flush=True)\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.close(1); os.close(2)\n"
        "    import time; time.sleep(60); os._exit(0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # A child of the job lives on; the daemon does not wait for it.
    assert eventually(lambda: not _folder(done.stdout.strip()).exists())


def test_several_optimizers_share_a_daemon(shared_daemon):
    params = [nn.Parameter(torch.ones(4, 4)) for _ in range(3)]
    optimizers = [
        muond.Muon([p], lr=0.1 * (i + 1), endpoint=shared_daemon) for i, p in enumerate(params)
    ]
    for _ in range(3):
        for p, opt in zip(params, optimizers, strict=True):
            p.grad = torch.eye(4)
            opt.step()
    assert len({p.detach()[0, 0].item() for p in params}) == 3
    for opt in optimizers:
        opt.close()
