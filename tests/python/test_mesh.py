"""FSDP2, HSDP and tensor parallelism over gloo, real processes, one daemon: the same bits as on one rank."""

from __future__ import annotations

import os
from pathlib import Path

import mesh_worker
import pytest
import torch
from test_ddp import saved, spawn

ON_TWO = (
    "fsdp", "fsdp_kept", "tp", "ddp", "mixed_precision", "accumulated", "beside_plain", "skipped",
    "moved", "handed_over", "loaded_fsdp", "loaded_tp",
)  # fmt: skip
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
    os.environ["MESH_CHECKPOINT"] = str(folder / "checkpoint")
    names = ("saved_half", *ON_TWO, "refused")
    assert spawn(mesh_worker.scenarios, 2, folder, *names) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def four_ranks(two_ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of four, which load what two have saved."""
    folder = tmp_path_factory.mktemp("four")
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
        assert "tensor 'group0.param0'" in told["cover"], told
        assert "torch.bfloat16" in told["dtype"]
        assert told["right"] == ""
