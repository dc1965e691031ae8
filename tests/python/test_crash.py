"""kill -9, at every named point of a step and at random instants: the job goes on, and ends with the same bits."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import job
import pytest
import torch
from processes import (
    alive,
    children,
    eventually,
    finish,
    keeper_of,
    read_steps,
    start_job,
)
from reference import matrices, set_gradients

import muond
from muond._session import Daemon

STEPS = 12
LISTED = subprocess.run(
    [os.environ.get("MUOND_BIN", "muond"), "--list-fail-points"],
    check=True,
    capture_output=True,
    text=True,
).stdout.split()
POINTS = [point for point in LISTED if not point.startswith("peer_")]  # no other daemons here
PASSED_ONCE = {"before_serving"}


def same(one: dict, two: dict) -> None:
    for i, (a, b) in enumerate(zip(one["weights"], two["weights"], strict=True)):
        assert torch.equal(a, b), f"parameter {i}"
    for index, values in one["state"]["state"].items():
        for key, value in values.items():
            assert torch.equal(value, two["state"]["state"][index][key]), f"{key} of {index}"


@pytest.fixture(scope="module")
def undisturbed(shared_daemon: str) -> dict:
    return job.train(STEPS, endpoint=shared_daemon)


def survives(deaths: list[str], undisturbed: dict, tmp_path: Path) -> None:
    """Runs the job on a daemon whose n-th stepper dies of the n-th entry."""
    log = tmp_path / "log"
    daemon = Daemon(
        log_path=str(log), arguments=["--fail-point", ",".join(deaths), "--cpu-devices", "2"]
    )
    end = job.train(STEPS, endpoint=daemon.endpoint)
    daemon.stop()
    same(undisturbed, end)
    starts = log.read_text().count("stepper.started")
    assert starts == 1 + len(deaths), f"of {deaths} only {starts - 1} were passed"


@pytest.mark.parametrize("point", POINTS)
def test_a_stepper_killed_at_a_point_costs_not_one_bit(point, undisturbed, tmp_path):
    count = 1 if point in PASSED_ONCE else 1 + random.Random(point).randrange(7)
    deaths = [f"{point}:{count}"]  # ten of the steps are applied
    if point.startswith("recover_"):  # the first stepper dies in a step, its successor there
        deaths = [f"after_flip:{count}", f"{point}:1"]
    survives(deaths, undisturbed, tmp_path)


@pytest.mark.parametrize("first", ["after_verdict", "after_flip", "mid_copy_out", "before_done"])
def test_a_stepper_killed_in_every_recovery_of_one_step_costs_not_one_bit(
    first, undisturbed, tmp_path
):
    recovery = [point for point in POINTS if point.startswith("recover_")]
    deaths = [f"{point}:1" for point in [*recovery, "after_stage", "mid_copy_out", *recovery]]
    survives([f"{first}:3", *deaths], undisturbed, tmp_path)


def _kill_at_random(out: Path, seed: int, kills: int, steps: int) -> int:
    """Runs the job, killing its stepper at random instants; how many died."""
    instants = random.Random(seed)
    process = start_job(out, steps)
    read_steps(process, 1)
    keeper = keeper_of(process.pid)
    drain = threading.Thread(target=process.stdout.read)
    drain.start()
    killed = 0
    while process.poll() is None and killed < kills:
        time.sleep(instants.uniform(0.0, 0.25))
        for stepper in children(keeper):
            os.kill(stepper, signal.SIGKILL)
            killed += 1
    error = process.stderr.read()
    assert process.wait(400) == 0, error
    drain.join()
    return killed


def _random_kills(seeds: range, kills: int, steps: int, tmp_path: Path) -> None:
    finish(start_job(tmp_path / "calm.pt", steps))
    for seed in seeds:
        print(f"seed {seed}")
        out = tmp_path / f"{seed}.pt"
        killed = _kill_at_random(out, seed, kills, steps)
        assert killed > 0
        same(torch.load(tmp_path / "calm.pt"), torch.load(out))


def test_steppers_killed_at_random_instants_cost_not_one_bit(tmp_path):
    _random_kills(range(2), kills=4, steps=150, tmp_path=tmp_path)


@pytest.mark.long
def test_steppers_killed_at_many_random_instants_cost_not_one_bit(tmp_path):
    _random_kills(range(100, 130), kills=4, steps=300, tmp_path=tmp_path)


def _join_save_load(endpoint: str, disturb: Callable[[], None]) -> dict:
    """A job that mostly joins, and reads and writes its state; ``disturb`` is called before each of them."""
    params = matrices(shapes=[(33, 17), (65, 300)])
    opt = muond.Muon(params, lr=0.02, endpoint=endpoint)
    for step in range(6):
        set_gradients(params, step)
        if step % 2 == 0:
            disturb()
        opt.step()
        disturb()
        saved = copy.deepcopy(opt.state_dict())
        disturb()
        opt.load_state_dict(saved)
        if step % 2 == 1:
            params += matrices(seed=step, shapes=[(9, 9)])
            opt.add_param_group({"params": params[-1:]})
    state = opt.state_dict()
    disturb()
    opt.close()
    return {"weights": params, "state": state}


def test_a_stepper_killed_while_jobs_join_and_state_moves_costs_not_one_bit(shared_daemon):
    calm = _join_save_load(shared_daemon, disturb=lambda: None)
    daemon, instants, kills = Daemon(), random.Random(7), []

    def kill() -> None:
        for stepper in children(daemon.pid):
            with contextlib.suppress(ProcessLookupError):  # it was ending
                os.kill(stepper, signal.SIGKILL)
                kills.append(stepper)

    def soon() -> None:
        threading.Timer(instants.uniform(0.0, 0.01), kill).start()

    disturbed = _join_save_load(daemon.endpoint, disturb=soon)
    daemon.stop()
    assert len(kills) > 5
    same(calm, disturbed)


def test_a_killed_keeper_is_a_clear_error_and_no_hang(tmp_path):
    process = start_job(tmp_path / "end.pt", 10_000)
    read_steps(process, 3)
    keeper = keeper_of(process.pid)
    steppers = children(keeper)
    os.kill(keeper, signal.SIGKILL)
    _, error = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "DaemonLostError" in error
    assert "keeper" in error
    assert eventually(lambda: not any(alive(pid) for pid in [keeper, *steppers]))


def test_a_stopped_stepper_only_makes_the_step_slower(undisturbed, tmp_path):
    out = tmp_path / "end.pt"
    process = start_job(out, STEPS, 0.05)
    read_steps(process, 2)
    [stepper] = children(keeper_of(process.pid))
    os.kill(stepper, signal.SIGSTOP)
    time.sleep(1.5)
    assert process.poll() is None
    os.kill(stepper, signal.SIGCONT)
    finish(process)
    same(undisturbed, torch.load(out))
