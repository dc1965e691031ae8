"""Processes of a GPU job under test: starting, finding, killing, comparing what they end with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).parent


def start_job(out: Path, steps: int, pause: float = 0.0, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HERE / "gpu_job.py"), str(out), str(steps), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(job: subprocess.Popen, timeout: float = 120) -> str:
    """Its standard error, once it has ended well; a job that hangs is killed."""
    try:
        out, err = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        job.kill()
        out, err = job.communicate()
        raise AssertionError(f"hangs after {timeout} s: {out[-400:]}\n{err[-2000:]}") from None
    assert job.returncode == 0, f"{out[-400:]}\n{err[-3000:]}"
    return err


def run_job(out: Path, steps: int, **environment: str) -> dict:
    finish(start_job(out, steps, **environment))
    return torch.load(out)


def read_steps(job: subprocess.Popen, until: int) -> str:
    """Reads the job's lines up to that step; its endpoint."""
    for line in job.stdout:
        word, step, endpoint = line.split()
        assert word == "step"
        if int(step) >= until:
            return endpoint
    raise AssertionError(f"the job ended before step {until}: {job.stderr.read()[-3000:]}")


def children(pid: int) -> list[int]:
    """Living children of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def keeper_of(pid: int) -> int:
    """The daemon that a job has started."""
    for child in children(pid):
        if os.readlink(f"/proc/{child}/exe").rsplit("/", 1)[-1] == "muond":
            return child
    raise AssertionError(f"process {pid} has no muond")


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def differences(one: dict, two: dict) -> list[str]:
    """Names of weights and state that are not equal bit for bit."""
    found = [name for name, p in one["weights"].items() if not torch.equal(p, two["weights"][name])]
    for index, values in one["state"].items():
        for key, value in values.items():
            if not torch.equal(value, two["state"][index][key]):
                found.append(f"{key} of {index}")
    return found
