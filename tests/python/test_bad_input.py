"""What is refused at a real daemon: that it is said what and how much, and that nothing has changed."""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from reference import matrices, set_gradients, vectors
from torch import nn

import muond
from muond._library import STATE_STEP, Scalars
from muond._session import Daemon, Manifest, Session


def test_no_daemon_at_all():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = muond.Muon([p], endpoint="unix:/tmp/no-such-muond/grpc.sock")
    with pytest.raises(muond.MuondError, match=r"/tmp/no-such-muond/grpc\.sock.*or name none"):
        opt.step()
    assert torch.all(p == 1)


def test_a_daemon_that_comes_later_is_found():
    """An endpoint where nobody is yet does not end the optimizer."""
    path = Path(f"/tmp/muond-later-{os.getpid()}")
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = muond.Muon([p], endpoint=f"unix:{path}/grpc.sock")
    with pytest.raises(muond.DaemonLostError):
        opt.step()
    daemon = Daemon(arguments=["--socket-dir", str(path)])
    opt.step()
    assert torch.any(p != 1)
    opt.close()
    daemon.stop()


def test_a_socket_path_that_is_too_long():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = muond.Muon([p], endpoint="unix:/tmp/" + "x" * 200)
    with pytest.raises(muond.MuondError, match="107"):
        opt.step()


def test_no_binary(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUOND_BIN", "/nowhere/muond")
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    with pytest.raises(muond.MuondError, match="/nowhere/muond"):
        muond.Muon([p]).step()


def test_a_daemon_that_refuses_its_arguments_says_so():
    with pytest.raises(muond.MuondError, match="no-such-option"):
        Daemon(arguments=["--no-such-option", "1"])


def test_nan_in_the_last_of_many_changes_nothing(shared_daemon):
    params = matrices() + vectors()
    opt = muond.Muon(
        [{"params": params[:10]}, {"params": params[10:], "use_muon": False}],
        endpoint=shared_daemon,
    )
    set_gradients(params, 0)
    opt.step()
    for value in (float("nan"), float("inf"), -float("inf")):
        set_gradients(params, 1)
        params[12].grad[-1] = value
        before = [p.detach().clone() for p in params]
        state = opt.state_dict()["state"]
        with pytest.raises(muond.NonFiniteGradientError, match=r"group1\.param2"):
            opt.step()
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
        after = opt.state_dict()["state"]
        assert all(torch.equal(state[i][k], after[i][k]) for i in state for k in state[i])
    set_gradients(params, 1)
    opt.step()
    assert opt.state[params[12]]["step"] == 2, "void steps do not count"
    opt.close()


def test_two_jobs_with_one_name(shared_daemon):
    params = [nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    optimizers = [muond.Muon([p], lr=0.5, endpoint=shared_daemon, job="twin") for p in params]
    for p in params:
        p.grad = torch.ones(2, 2)
    optimizers[0].step()
    with pytest.raises(muond.MuondError, match="twin"):
        optimizers[1].step()
    assert torch.all(params[1] == 1)
    optimizers[0].step()
    optimizers[0].close()
    optimizers[1].step()
    optimizers[1].close()


def test_a_manifest_of_2_to_the_40_elements(shared_daemon):
    manifest = Manifest("huge", 1, 0, 1)
    manifest.add_adamw_group("g")
    manifest.add_tensor("w", (1 << 20, 1 << 20), 0, 0)
    manifest.add_whole_block(0, 1, 0, 1)
    with pytest.raises(muond.MuondError, match="w") as caught:
        Session(manifest, shared_daemon)
    assert caught.value.status == "INVALID_ARGUMENT"


def test_no_memory_at_attach():
    daemon = Daemon(arguments=["--cpu-memory-bytes", "1MiB"])
    p = nn.Parameter(torch.ones(1024, 1024))
    p.grad = torch.ones(1024, 1024)
    opt = muond.Muon([p], endpoint=daemon.endpoint)
    with pytest.raises(muond.MuondError, match=r"bytes") as caught:
        opt.step()
    assert caught.value.status == "RESOURCE_EXHAUSTED"
    assert torch.all(p == 1)
    daemon.stop()


def test_a_socket_of_something_else(tmp_path: Path):
    """A listener that is no daemon: an error within the time, no hang."""
    path = f"/tmp/muond-test-{os.getpid()}.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    try:
        p = nn.Parameter(torch.ones(2, 2))
        manifest = Manifest("j", 1, 0, 1)
        manifest.add_muon_group("g", "jordan", 5, 1)
        manifest.add_tensor("w", (2, 2), 0, 0)
        manifest.add_whole_block(0, 1, 0, 1)
        with pytest.raises(muond.MuondError, match=path):
            Session(manifest, f"unix:{path}", join_timeout=2)
        assert torch.all(p == 1)
    finally:
        listener.close()
        os.unlink(path)


@pytest.mark.parametrize("how", ["refuse", "answer"])
def test_a_daemon_of_another_version(how: str, tmp_path: Path):
    """Refused by whoever sees it first, naming both versions; nothing has changed."""
    program = Path(os.environ.get("MUOND_LIBRARY", "/")).resolve().parents[2]
    program = program / "tests/support/other_version_daemon"
    if not program.is_file():
        pytest.skip(f"{program} is not there: an installed package, or a build without tests")
    path = f"/tmp/muond-other-{os.getpid()}.sock"
    daemon = subprocess.Popen(
        [program, path, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout.readline() == "serves\n"
        p = nn.Parameter(torch.ones(2, 2))
        p.grad = torch.ones(2, 2)
        opt = muond.Muon([p], endpoint=f"unix:{path}")
        with pytest.raises(muond.MuondError, match=r"2\.7 .*99\.5\.0") as caught:
            opt.step()
        assert f"1.0 (build '{muond.version()}')" in str(caught.value)
        assert caught.value.status == "FAILED_PRECONDITION"
        assert torch.all(p == 1)
    finally:
        daemon.communicate(timeout=200)


def test_a_step_out_of_order_or_twice(shared_daemon):
    """The interface below the optimizer, which keeps the order by itself."""
    manifest = Manifest("order", 1, 0, 1)
    manifest.add_adamw_group("g")
    manifest.add_tensor("w", (2,), 0, 0)
    manifest.add_whole_block(0, 1, 0, 1)
    session = Session(manifest, shared_daemon)
    gradient = torch.ones(2)
    scalars = [Scalars(lr=0.5, beta1=0.9, beta2=0.999, eps=1e-8)]

    def refused(call, *arguments) -> str:
        with pytest.raises(muond.MuondError) as caught:
            call(*arguments)
        assert caught.value.status == "FAILED_PRECONDITION"
        return str(caught.value)

    for step in (1, 2):
        assert f"step {step} was not committed" in refused(session.wait, 1.0)
        session.put(0, gradient.data_ptr(), 8)
        assert session.commit(scalars) == step
        assert f"step {step} is committed and not over" in refused(session.commit, scalars)
        assert f"while step {step} is not over" in refused(session.put, 0, gradient.data_ptr(), 8)
        assert session.wait(30.0).applied
    assert session.last_step() == 2
    count = torch.zeros(1, dtype=torch.float64)
    session.fetch_state(0, STATE_STEP, count.data_ptr(), 8)
    assert count.item() == 2
    session.close()


def test_missing_ranks_are_named(shared_daemon):
    manifest = Manifest("lonely", 3, 1, 1)
    manifest.add_muon_group("g", "jordan", 5, 1)
    manifest.add_tensor("w", (2, 2), 0, 0)
    manifest.add_whole_block(0, 1, 1, 3)
    with pytest.raises(muond.MuondError) as caught:
        Session(manifest, shared_daemon, join_timeout=1)
    assert caught.value.status == "DEADLINE_EXCEEDED"


def test_a_rank_that_asks_after_the_others_were_refused_is_told_why_too(shared_daemon):
    def join(rank: int, columns: int) -> str:
        manifest = Manifest("three", 3, rank, 1)
        manifest.add_muon_group("g", "jordan", 5, 1)
        manifest.add_tensor("w", (2, columns), 0, 0)
        manifest.add_whole_block(0, 1, rank, 3)
        with pytest.raises(muond.MuondError) as caught:
            Session(manifest, shared_daemon, attempt=4711)
        return str(caught.value)

    with ThreadPoolExecutor(2) as threads:
        told = list(threads.map(join, (0, 1), (2, 3)))
    assert all("[2,2] against [2,3]" in text or "[2,3] against [2,2]" in text for text in told)
    assert join(2, 2) == told[0] == told[1]


def test_blocks_that_do_not_cover_a_tensor(shared_daemon):
    import ctypes

    from muond import _library as lib
    from muond._session import check

    manifest = Manifest("holes", 1, 0, 1)
    manifest.add_muon_group("g", "jordan", 5, 1)
    manifest.add_tensor("w", (4, 4), 0, 0)
    offset, extent = (ctypes.c_int64 * 2)(0, 0), (ctypes.c_int64 * 2)(3, 4)
    block = lib.Block.make(tensor=0, dims=2, offset=offset, extent=extent)
    check(lib.load().muond_manifest_add_block(manifest.handle, block, None))
    with pytest.raises(muond.MuondError, match=r"w.*12.*16|w.*16.*12"):
        Session(manifest, shared_daemon)
