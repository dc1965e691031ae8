"""One job over two daemons, each with a keeper and slabs of its own, and a coordinator: real processes over TCP."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nodes_worker
import pytest
import torch
import torch.multiprocessing as mp
from processes import children, eventually

MUOND = os.environ.get("MUOND_BIN", "muond")
COORDINATOR = next(
    (
        str(path)
        for path in (
            Path(MUOND).with_name("muond-coordinator"),
            Path(MUOND).parents[1] / "coordinator/muond-coordinator",
        )
        if path.is_file()
    ),
    "muond-coordinator",
)
POINTS = subprocess.run(
    [MUOND, "--list-fail-points"], check=True, capture_output=True, text=True
).stdout.split()


def _can_listen() -> str:
    """Why jobs of several daemons cannot run here; empty: they can."""
    libraries = subprocess.run(["ldd", MUOND], check=False, capture_output=True, text=True).stdout
    return "" if "libucp" in libraries else "this build has no UCX: no carrier between daemons"


WHY_NOT = _can_listen()
pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class Program:
    """A keeper or a coordinator, started and serving."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        ready, write = os.pipe()
        flags = [*arguments, "--ready-fd", str(write)] if "--socket-dir" in arguments else arguments
        with log.open("w") as out:
            self.process = subprocess.Popen(flags, stderr=out, stdout=out, pass_fds=(write,))
        os.close(write)
        with os.fdopen(ready) as line:
            if "--socket-dir" in arguments:
                assert line.readline() == "ready\n", log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stepper(self) -> int | None:
        found = children(self.process.pid)
        return found[0] if found else None

    def kill_stepper(self) -> None:
        stepper = self.stepper()
        if stepper is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stepper, signal.SIGKILL)

    def starts(self) -> int:
        return self.log.read_text().count("stepper.started")


class Cluster:
    def __init__(self, folder: Path, *, fail: dict[int, str] | None = None, peer_s: float = 30):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        socket = folder / "c.sock"
        self.coordinator = Program(
            [COORDINATOR, "--listen", f"unix:{socket}", "--store", str(folder / "c.db")],
            folder / "coordinator.log",
        )
        self.nodes: list[Program] = []
        try:
            assert eventually(socket.exists), (folder / "coordinator.log").read_text()
            for n in range(2):
                arguments = [
                    MUOND, "--backend", "cpu", "--socket-dir", str(folder / f"n{n}"),
                    "--coordinator", f"unix:{socket}", "--shard-listen", "127.0.0.1:0",
                    "--metrics-listen", "off", "--peer-timeout-s", str(peer_s),
                ]  # fmt: skip
                if fail and n in fail:
                    arguments += ["--fail-point", fail[n]]
                self.nodes.append(Program(arguments, folder / f"n{n}.log"))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for program in [*self.nodes, self.coordinator]:
            program.stop()

    def job(self, name: str, at: tuple[int, ...]) -> Path:
        """A folder for a job whose rank r is at node at[r]."""
        folder = self.folder / name
        folder.mkdir()
        endpoints = [f"unix:{self.folder}/n{node}/grpc.sock" for node in at]
        (folder / "endpoints").write_text("\n".join(endpoints) + "\n")
        return folder

    def logs(self) -> str:
        return "\n".join(f"== {p.log.name}\n{p.log.read_text()}" for p in self.nodes)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    yield made
    made.stop()


def spawn(worker, folder: Path, *arguments: str) -> mp.ProcessContext:
    return mp.start_processes(
        worker, args=(2, str(folder), *arguments), nprocs=2, join=False, start_method="spawn"
    )


def join(context: mp.ProcessContext, cluster: Cluster) -> None:
    for process in context.processes:
        process.join(200)
    codes = [process.exitcode for process in context.processes]
    for process in context.processes:
        if process.is_alive():
            process.kill()
    assert codes == [0, 0], cluster.logs()


def weights(folder: Path) -> list[list[torch.Tensor]]:
    return [torch.load(folder / f"weights-{rank}.pt") for rank in range(2)]


def same(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            assert torch.equal(a, b), f"parameter {i}"


def steps_done(folder: Path) -> int:
    done = []
    for rank in range(2):
        path = folder / f"steps-{rank}"
        done.append(len(path.read_text().splitlines()) if path.is_file() else 0)
    return min(done)


def test_two_daemons_give_the_weights_of_one_whatever_stepper_dies(cluster: Cluster) -> None:
    alone, both, killed = (
        cluster.job("alone", (0, 0)),
        cluster.job("both", (0, 1)),
        cluster.job("killed", (1, 0)),
    )
    steps = "16"
    join(spawn(nodes_worker.train, alone, steps, "0"), cluster)
    join(spawn(nodes_worker.train, both, steps, "0"), cluster)
    same(weights(alone), weights(both))
    for node in cluster.nodes:
        assert node.log.read_text().count("link.up") == 1, cluster.logs()

    job = spawn(nodes_worker.train, killed, steps, "0.05")
    for done, node in ((2, 0), (5, 1), (8, 0), (11, 1)):
        assert eventually(lambda done=done: steps_done(killed) >= done, 100), cluster.logs()
        cluster.nodes[node].kill_stepper()
    join(job, cluster)
    same(weights(alone), weights(killed))
    assert [node.starts() for node in cluster.nodes] == [3, 3], cluster.logs()


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize(
    "point", [p for p in POINTS if p.startswith("peer_")] + ["after_verdict", "after_flip", "mid_copy_out"]
)  # fmt: skip
def test_a_stepper_that_dies_at_any_point_costs_not_one_bit(
    point: str, node: int, tmp_path: Path
) -> None:
    made = Cluster(tmp_path / "cluster", fail={node: f"{point}:3"})
    try:
        folder = made.job("job", (0, 1))
        join(spawn(nodes_worker.train, folder, "10", "0"), made)
        alone = made.job("alone", (0, 0))
        join(spawn(nodes_worker.train, alone, "10", "0"), made)
        same(weights(alone), weights(folder))
        # Only the chief takes votes, only a member gives one.
        if not point.endswith("vote"):
            assert made.nodes[node].starts() == 2, made.logs()
    finally:
        made.stop()


def test_a_daemon_that_is_gone_for_good_ends_the_job_with_its_name_and_the_step(
    tmp_path: Path,
) -> None:
    made = Cluster(tmp_path / "cluster", peer_s=1)
    try:
        folder = made.job("lost", (0, 1))
        job = spawn(nodes_worker.train, folder, "100000", "0.01")
        assert eventually(lambda: steps_done(folder) >= 3, 100), made.logs()
        made.nodes[1].process.kill()
        for process in job.processes:
            process.join(100)
        codes = [process.exitcode for process in job.processes]
        assert 0 not in codes, (codes, made.logs())
        assert None not in codes, (codes, made.logs())
        lost = [
            line for line in made.nodes[0].log.read_text().splitlines() if "member.lost" in line
        ]
        assert len(lost) == 1, made.logs()
        assert "step" in lost[0], made.logs()
    finally:
        made.stop()
