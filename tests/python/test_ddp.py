"""DistributedDataParallel over gloo, real processes, one daemon that the first rank starts."""

from __future__ import annotations

import pickle
from pathlib import Path

import ddp_worker
import pytest
import torch
import torch.multiprocessing as mp
import trajectory_jobs

import muond


def spawn(worker, world: int, folder: Path, *names: str) -> list[int]:
    """Runs ``worker`` on every rank; the exit codes."""
    context = mp.start_processes(
        worker, args=(world, str(folder), *names), nprocs=world, join=False, start_method="spawn"
    )
    for process in context.processes:
        process.join(400)
    for path in map(Path, context.error_files):
        if path.is_file() and path.stat().st_size:
            print(pickle.loads(path.read_bytes()))  # what the rank raised
    codes = [process.exitcode for process in context.processes]
    for process in context.processes:
        if process.is_alive():
            process.kill()
    return codes


def saved(folder: Path, name: str, world: int) -> list:
    paths = [folder / f"{name}-rank{rank}.pt" for rank in range(world)]
    return [torch.load(path, weights_only=False) for path in paths if path.is_file()]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two ranks do, in one pair of processes: starting them is what takes the time."""
    folder = tmp_path_factory.mktemp("two")
    trained = ("train", "inner", "unreduced", "wrapped_anew", "forced_jobs", "forced_inside")
    refused = ("refusals", "refusals_inside", "other_manifest", "other_manifest_inside")
    names = (*trained, *refused, "one_cannot_join")
    assert spawn(ddp_worker.scenarios, 2, folder, *names) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def trained(two_ranks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list]:
    results = {2: saved(two_ranks, "train", 2)}
    for world in (1, 4):
        folder = tmp_path_factory.mktemp(f"world{world}")
        assert spawn(ddp_worker.scenarios, world, folder, "train") == [0] * world
        results[world] = saved(folder, "train", world)
    return results


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_same_reduced_gradients_give_plain_trainings_bits(world, trained):
    assert len(trained[world]) == world
    _replay(trained[world])


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 4])
def test_the_same_reduced_gradients_give_plain_trainings_bits_over_200_steps(world, tmp_path):
    assert spawn(ddp_worker.scenarios, world, tmp_path, "train_on") == [0] * world
    ranks = saved(tmp_path, "train_on", world)
    assert len(ranks) == world
    assert len(ranks[0]["gradients"]) == 200
    _replay(ranks)


def _replay(ranks: list) -> None:
    """What the ranks have, to the bit, from the first rank's gradients in this process alone."""
    for rank in ranks[1:]:
        for a, b in zip(ranks[0]["weights"], rank["weights"], strict=True):
            assert torch.equal(a, b)
    model = ddp_worker.model_of()
    with torch.no_grad():
        for p, value in zip(model.parameters(), ranks[0]["first"], strict=True):
            p.copy_(value)
    opt = muond.Muon(model, **ddp_worker.settings())
    for gradients in ranks[0]["gradients"]:
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
        opt.step()
    state = opt.state_dict()["state"]
    opt.close()
    for (name, p), theirs in zip(model.named_parameters(), ranks[0]["weights"], strict=True):
        assert torch.equal(p, theirs), name
    for index, values in state.items():
        for key, value in values.items():
            for rank in ranks:
                assert torch.equal(value, rank["state"]["state"][index][key]), (index, key)


def test_ddp_is_found_around_a_module_that_was_given_before(two_ranks):
    first, second = saved(two_ranks, "inner", 2)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_jobs_have_plain_trainings_bits_also_when_resumed_and_in_process(two_ranks):
    plain = {}
    for name in ddp_worker.FORCED:
        run = trajectory_jobs.Run(trajectory_jobs.JOBS[name], "muond", ddp=False, first=1)
        run.steps(1, 12)
        plain[name] = run.saved()
        run.opt.close()
    for rank in saved(two_ranks, "forced_jobs", 2):
        for name, end in plain.items():
            assert trajectory_jobs.differences(end, rank["ends"][name]) == [], name
            assert trajectory_jobs.differences(end, rank["resumed"][name]) == [], name
    for rank in saved(two_ranks, "forced_inside", 2):
        for name, end in plain.items():
            assert trajectory_jobs.differences(end, rank[name]) == [], f"{name}, in process"


def test_unreduced_gradients_are_averaged_by_the_daemon(two_ranks):
    ranks = saved(two_ranks, "unreduced", 2)
    model = ddp_worker.model_of()
    opt = muond.Muon(model, **ddp_worker.settings())
    for one, two in zip(ranks[0]["gradients"], ranks[1]["gradients"], strict=True):
        assert any(a is not None and not torch.equal(a, b) for a, b in zip(one, two, strict=True))
        for p, a, b in zip(model.parameters(), one, two, strict=True):
            p.grad = None if a is None else (a + b) / 2
        opt.step()
    opt.close()
    for rank in ranks:
        for (name, p), theirs in zip(model.named_parameters(), rank["weights"], strict=True):
            torch.testing.assert_close(p, theirs, msg=name)


def test_a_layer_unfrozen_later_joins_under_another_ddp(two_ranks):
    ranks = saved(two_ranks, "wrapped_anew", 2)
    model = ddp_worker.model_of()
    opt = muond.Muon(model, **ddp_worker.settings())
    for gradients in ranks[0]["gradients"]:
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
        opt.step()
    opt.close()
    for rank in ranks:
        for (name, p), theirs in zip(model.named_parameters(), rank["weights"], strict=True):
            assert torch.equal(p, theirs), name


@pytest.mark.parametrize("scenario", ["refusals", "refusals_inside"])
def test_ranks_that_disagree_are_told_and_nothing_changes(two_ranks, scenario):
    ranks = saved(two_ranks, scenario, 2)
    assert len(ranks) == 2
    for told in ranks:
        assert "has 2 ranks, and nothing tells whether" in told["undeclared"]
        assert "group0.param0 is not the same on the 2 ranks" in told["gradients"]
        assert "different values for lr of group0" in told["settings"]
        assert "on some of the ranks" in told["absent"]
        assert told["unchanged"]
        assert told["moved"]
        assert scenario == "refusals" or "ranks 0 and 1 have different parameters" in told["values"]


@pytest.mark.parametrize("scenario", ["other_manifest", "other_manifest_inside"])
def test_ranks_with_different_models_are_told_what_differs(two_ranks, scenario):
    told = [text.replace(", ", ",") for text in saved(two_ranks, scenario, 2)]
    assert len(told) == 2
    assert all("[4,4]" in text and "[4,5]" in text for text in told), told


def test_a_rank_that_cannot_join_fails_them_all_with_its_reason(two_ranks):
    told = saved(two_ranks, "one_cannot_join", 2)
    assert told == [
        ("MuondError: rank 1 could not join: no room for 64 bytes", True, True),
        ("MemoryError: no room for 64 bytes", True, True),
    ]


def test_a_lost_rank_is_an_error_and_no_hang(tmp_path):
    assert spawn(ddp_worker.lose_a_rank, 3, tmp_path) == [0, 0, 9]
    told = saved(tmp_path, "lost", 3)
    assert len(told) == 2
    for text, unchanged in told:
        assert text.startswith(("RankLostError", "DaemonLostError")), text
        assert unchanged
