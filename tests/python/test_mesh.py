"""FSDP2, HSDP and tensor parallelism over gloo, real processes, one daemon: the same bits as on one rank."""

from __future__ import annotations

from pathlib import Path

import mesh_worker
import pytest
import torch
from test_ddp import saved, spawn

from muond._session import Daemon

ON_TWO = (
    "fsdp", "fsdp_kept", "tp", "ddp", "mixed_precision", "accumulated", "beside_plain", "skipped",
    "moved", "handed_over", "dying", "killed", "loaded_fsdp", "loaded_tp",
)  # fmt: skip
# Where the n-th stepper of one daemon dies: of the n-th entry, at its so-many-th pass.
DEATHS = ("after_verdict:3", "after_stage:5", "after_flip:4", "mid_copy_out:6", "before_done:2")
ON_FOUR = ("fsdp", "hsdp", "tp_fsdp", "loaded_fsdp", "loaded_hsdp")


@pytest.fixture(scope="module")
def daemon(shared_daemon: str):
    """Every job below runs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUOND_ENDPOINT", shared_daemon)
        yield shared_daemon


@pytest.fixture(scope="module")
def plain(daemon: str) -> dict:
    return mesh_worker.train(lambda bag: bag)


@pytest.fixture(scope="module")
def two_ranks(daemon: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two ranks do, in one pair of processes: starting them is what takes the time."""
    folder = tmp_path_factory.mktemp("two")
    log = folder / "log"
    dying = Daemon(log_path=str(log), arguments=["--fail-point", ",".join(DEATHS)])
    killed = Daemon(arguments=["--cpu-devices", "2"])
    names = ("saved_half", *ON_TWO, "refused")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESH_DYING", dying.endpoint)
        patch.setenv("MESH_KILLED", killed.endpoint)
        patch.setenv("MESH_KILLED_PID", str(killed.pid))
        patch.setenv("MESH_CHECKPOINT", str(folder / "checkpoint"))
        assert spawn(mesh_worker.scenarios, 2, folder, *names) == [0, 0]
    dying.stop()
    killed.stop()
    assert log.read_text().count("stepper.started") == 1 + len(DEATHS)
    return folder


@pytest.fixture(scope="module")
def four_ranks(two_ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of four, which load what two have saved."""
    folder = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESH_CHECKPOINT", str(two_ranks / "checkpoint"))
        assert spawn(mesh_worker.scenarios, 4, folder, *ON_FOUR) == [0] * 4
    return folder


def same_as(plain: dict, results: list[dict]) -> None:
    for rank, result in enumerate(results):
        assert list(result["weights"]) == list(plain["weights"])
        for name, value in plain["weights"].items():
            assert torch.equal(result["weights"][name], value), f"rank {rank}: {name}"
        for index, values in plain["state"].items():
            for key, value in values.items():
                theirs = result["state"][index][key]
                assert torch.equal(theirs, value), f"rank {rank}: {key} of {index}"
        assert result["closed"], f"rank {rank}: other weights after close()"


@pytest.mark.parametrize("name", ON_TWO)
def test_two_ranks_give_the_bits_of_one(name, plain, two_ranks):
    results = saved(two_ranks, name, 2)
    assert len(results) == 2
    same_as(plain, results)


@pytest.mark.parametrize("name", ON_FOUR)
def test_four_ranks_give_the_bits_of_one(name, plain, four_ranks):
    results = saved(four_ranks, name, 4)
    assert len(results) == 4
    same_as(plain, results)


def test_what_cannot_be_is_told_to_every_rank(two_ranks):
    for rank, told in enumerate(saved(two_ranks, "refused", 2)):
        assert "[4,4]" in told["shape"], told
        assert "[4,5]" in told["shape"], told
        assert 'data_parallel="none" is for plain tensors' in told["none"]
        assert f"this rank, at [{rank}]" in told["local"].replace("(", "[").replace(",)", "]")
        assert "holds (3, 4), and by the placements it would be (2, 4)" in told["local"]
        assert "holds (3, 4)" in told["lone"], told
        assert ("rank 1 could not join" in told["lone"]) == (rank == 0), told
        assert "daemon=None steps whole tensors" in told["inside"]
        assert "tensor 'group0.param0'" in told["cover"], told
        assert "torch.bfloat16" in told["dtype"]
        assert told["right"] == ""
