"""Processes of a job under test: starting, finding, killing, and seeing that nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def start_job(out: Path, steps: int, pause: float = 0.0, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HERE / "job.py"), str(out), str(steps), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finish(job: subprocess.Popen, timeout: float = 400) -> str:
    """Its standard error, once it has ended well."""
    out, err = job.communicate(timeout=timeout)
    assert job.returncode == 0, f"{out}\n{err}"
    return err


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


def program_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").rsplit("/", 1)[-1].removesuffix(" (deleted)")
    except OSError:
        return ""


def keeper_of(pid: int) -> int:
    """The daemon that a job has started."""
    [keeper] = [child for child in children(pid) if program_of(child) == "muond"]
    return keeper


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def read_steps(job: subprocess.Popen, until: int) -> str:
    """Reads the job's lines up to that step; its endpoint."""
    for line in job.stdout:
        word, step, endpoint = line.split()
        assert word == "step"
        if int(step) >= until:
            return endpoint
    raise AssertionError(f"the job ended before step {until}: {job.stderr.read()}")
