"""kill -9 on a GPU: of the stepper at points of a step and at random instants, of a rank, of the keeper."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import gpu_job
import pytest
import torch
from jobs import (
    children,
    differences,
    eventually,
    finish,
    keeper_of,
    read_steps,
    run_job,
    start_job,
)

from muond import device as devices
from muond._session import Daemon

STEPS = 12
PAUSE_MAX = 2.0  # seconds that a step may take in which a stepper dies
POINTS = [
    "after_sheet",
    "after_measure",
    "after_verdict",
    "after_stage",
    "after_flip",
    "mid_copy_out",
    "after_ready_cell",
    "before_done",
]


def daemon_of(*arguments: str, log: Path | None = None) -> Daemon:
    uuid = devices.uuid_of(torch.device("cuda:0"))
    return Daemon(
        arguments=[*devices.daemon_arguments([uuid]), *arguments],
        log_path=None if log is None else str(log),
    )


@pytest.fixture(scope="module")
def undisturbed() -> dict:
    daemon = daemon_of()
    end = gpu_job.train(STEPS, endpoint=daemon.endpoint)
    daemon.stop()
    return end


@pytest.mark.parametrize("point", POINTS)
def test_a_stepper_killed_at_a_point_costs_not_one_bit(point, undisturbed, tmp_path):
    log = tmp_path / "log"
    count = 2 + random.Random(point).randrange(4)
    daemon = daemon_of("--fail-point", f"{point}:{count}", log=log)
    end = gpu_job.train(STEPS, endpoint=daemon.endpoint, pause=0.001)
    daemon.stop()
    assert log.read_text().count("stepper.started") == 2, f"{point}:{count} was not passed"
    assert differences(undisturbed, end) == []
    assert end["longest"] < PAUSE_MAX


def test_steppers_killed_at_random_instants_cost_not_one_bit(tmp_path):
    steps = 800
    calm = run_job(tmp_path / "calm.pt", steps)
    out, instants = tmp_path / "end.pt", random.Random(7)
    job = start_job(out, steps, 0.001)
    read_steps(job, 3)
    keeper = keeper_of(job.pid)
    drain = threading.Thread(target=job.stdout.read)
    drain.start()
    killed = 0
    while job.poll() is None and killed < 4:
        time.sleep(instants.uniform(1.2, 2.0))  # each meets a stepper that serves
        for stepper in children(keeper):
            os.kill(stepper, signal.SIGKILL)
            killed += 1
    error = job.stderr.read()
    try:
        assert job.wait(120) == 0, error[-3000:]
    finally:
        job.kill()
        drain.join()
    end = torch.load(out)
    assert killed >= 2
    assert differences(calm, end) == []
    assert end["longest"] < PAUSE_MAX


def test_a_killed_rank_gives_the_device_memory_back():
    def used() -> int:
        free, total = torch.cuda.mem_get_info(0)
        return total - free

    torch.cuda.synchronize()
    daemon = daemon_of("--job-lease-s", "0.5")
    try:
        environment = {"MUOND_ENDPOINT": daemon.endpoint}
        # Streams' scratch and the workspace stay with the daemon: the baseline is after a job that ended in order.
        finish(start_job(Path(os.devnull), 3, **environment))
        baseline = used()
        job = start_job(Path(os.devnull), 100_000, **environment)
        read_steps(job, 5)
        during = used()
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        came_back = eventually(lambda: used() <= baseline + (8 << 20), 20)
        assert during > baseline + (32 << 20)
        assert came_back, f"baseline {baseline}, with the job {during}, now {used()}"
    finally:
        daemon.stop()


def test_a_killed_keeper_is_a_clear_error_and_no_hang(tmp_path):
    job = start_job(tmp_path / "end.pt", 100_000, 0.001)
    read_steps(job, 5)
    keeper = keeper_of(job.pid)
    steppers = children(keeper)
    os.kill(keeper, signal.SIGKILL)
    try:
        _, error = job.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"it hangs: {job.communicate()[1][-3000:]}") from None
    assert job.returncode == 1, error[-3000:]
    assert "DaemonLostError" in error
    assert eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in steppers))
