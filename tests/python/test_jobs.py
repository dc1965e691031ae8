"""Jobs of every shape and setting against torch's optimizers and float64; over 200 steps, plain, as ranks, and resumed in new processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from trajectory_jobs import JOBS, MATRICES, Network, Run, differences, ranks


def _to_muon(run: Run) -> set[str]:
    chosen = {id(p) for group in run.opt.param_groups if group["use_muon"] for p in group["params"]}
    return {name for name, p in run.named.items() if id(p) in chosen}


def _held_against_torch(name: str, steps: int, endpoint: str) -> list[str]:
    """Runs the job in three ways; one line of figures a parameter."""
    job = JOBS[name]
    run = Run(job, "muond", ddp=False, first=1, endpoint=endpoint)
    run.steps(1, steps)
    run.opt.close()
    if job.make is Network:
        assert _to_muon(run) == set(MATRICES)
    torchs, exact = (Run(job, family, ddp=False, first=1) for family in ("torch", "exact"))
    torchs.steps(1, steps)
    start = {key: value.clone() for key, value in exact.inner.state_dict().items()}
    exact.steps(1, steps)
    to_muon, lines = _to_muon(run), []
    for key, p in run.named.items():
        moved = (exact.named[key] - start[key]).norm().item()
        if moved == 0:
            assert torch.equal(p.double(), start[key]), f"{key} has moved"
            continue
        ours = (p.double() - exact.named[key]).detach()
        theirs = (torchs.named[key].double() - exact.named[key]).detach()
        apart = (p - torchs.named[key]).norm().item()
        if key in to_muon:  # nearer to the polynomial than torch's bfloat16
            assert ours.norm() <= theirs.norm(), key
            assert ours.abs().max() <= theirs.abs().max(), key
            assert ours.norm().item() < 3e-4 * moved, key
        else:  # fp32's rounding
            assert apart < 1e-5 * moved, key
        lines.append(
            f"{name:17} {key:17} {'muon' if key in to_muon else 'adamw':5} ours {ours.norm() / moved:.1e} "
            f"torch {theirs.norm() / moved:.1e} apart {apart / moved:.1e}"
        )
    return lines


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_where_torchs_ends(name, shared_daemon):
    _held_against_torch(name, 12, shared_daemon)


@pytest.mark.long
@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_where_torchs_ends_after_200_steps(name, shared_daemon):
    print("\n" + "\n".join(_held_against_torch(name, 200, shared_daemon)))


@pytest.fixture(scope="module")
def plain() -> dict[str, dict]:
    ends = {}
    for name, job in JOBS.items():
        run = Run(job, "muond", ddp=False, first=1)
        run.steps(1, 200)
        ends[name] = run.saved()
        run.opt.close()
    return ends


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_and_resumed_ranks_have_plain_trainings_bits_after_200_steps(
    world: int, plain: dict, tmp_path: Path
):
    for what in ("forced", "resumed"):
        settings = (world, str(tmp_path), what, 200, 100)
        mp.start_processes(ranks, args=settings, nprocs=world, start_method="spawn")
        for rank in range(world):
            ends = torch.load(tmp_path / f"{what}-rank{rank}.pt")
            for name, end in plain.items():
                assert differences(end, ends[name]) == [], (what, rank, name)
