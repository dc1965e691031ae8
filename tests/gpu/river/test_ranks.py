"""Several ranks: DDP on one GPU and on two, GPUs named otherwise, ranks in namespaces of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jobs import HERE, differences, finish, run_job, start_job

from muond import device as devices
from muond._session import Daemon

STEPS = 12


def run_two(tmp_path: Path, name: str, variants: list[dict[str, str]]) -> list[dict]:
    outs = [tmp_path / f"{name}-{rank}.pt" for rank in range(2)]
    jobs = [
        start_job(
            out,
            STEPS,
            JOB_RANK=str(rank),
            JOB_WORLD="2",
            JOB_STORE=str(tmp_path / f"{name}-store"),
            **variants[rank],
        )
        for rank, out in enumerate(outs)
    ]
    for job in jobs:
        finish(job)
    return [torch.load(out) for out in outs]


def test_two_ranks_on_one_gpu(tmp_path):
    one, two = run_two(tmp_path, "ddp", [{}, {}])
    assert differences(one, two) == []
    unreduced = run_two(tmp_path, "sum", [{"JOB_DATA_PARALLEL": "unreduced"}] * 2)
    assert differences(*unreduced) == []
    for name, p in one["weights"].items():  # gloo's sum and the owner's: the same up to rounding
        torch.testing.assert_close(p, unreduced[0]["weights"][name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_gpus_have_the_bits_of_one(two_gpus, tmp_path):
    for kind in ("reduced", "unreduced"):
        shared = {"JOB_DATA_PARALLEL": kind}
        same = run_two(tmp_path, f"same-{kind}", [shared, shared])
        apart = run_two(tmp_path, f"apart-{kind}", [shared, {**shared, "JOB_DEVICE": "cuda:1"}])
        assert differences(apart[0], apart[1]) == [], kind
        assert differences(same[0], apart[0]) == [], kind


def test_gpus_are_found_by_uuid_under_any_numbering(two_gpus, tmp_path):
    plain = run_two(tmp_path, "plain", [{}, {"JOB_DEVICE": "cuda:1"}])
    renumbered = run_two(
        tmp_path,
        "renumbered",
        [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "1,0", "JOB_DEVICE": "cuda:1"}],
    )
    assert differences(plain[0], renumbered[0]) == []
    assert differences(renumbered[0], renumbered[1]) == []


def test_a_rank_in_namespaces_of_its_own(tmp_path):
    """Separate IPC, PID and mount namespaces: no shared /dev/shm, no common process numbers."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare(1)")
    own = run_job(tmp_path / "own.pt", STEPS)
    uuid = devices.uuid_of(torch.device("cuda:0"))
    daemon = Daemon(arguments=devices.daemon_arguments([uuid]))
    apart = subprocess.run(
        [unshare, "--ipc", "--pid", "--fork", "--mount", "--mount-proc", sys.executable,
         str(HERE / "gpu_job.py"), str(tmp_path / "apart.pt"), str(STEPS)],
        env={**os.environ, "MUOND_ENDPOINT": daemon.endpoint},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    daemon.stop()
    assert apart.returncode == 0, apart.stderr[-3000:]
    assert differences(own, torch.load(tmp_path / "apart.pt")) == []
