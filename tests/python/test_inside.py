"""The engine in this process (daemon=None): the daemon's bits, its state, its errors."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import children
from reference import SmallModel, batch, loss_of, matrices, set_gradients, vectors
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from trajectory_jobs import JOBS, Run, differences

import muond


def _mixed(**settings) -> tuple[list[nn.Parameter], muond.Muon]:
    params = matrices() + vectors()
    groups = [{"params": params[:10]}, {"params": params[10:], "use_muon": False}]
    return params, muond.Muon(groups, lr=0.02, **settings)


@pytest.mark.parametrize("name", JOBS)
def test_twenty_steps_have_the_daemons_bits(name, shared_daemon):
    before = children(os.getpid())
    ends = []
    for options in ({"endpoint": shared_daemon}, {"daemon": None}):
        run = Run(JOBS[name], "muond", ddp=False, first=1, **options)
        run.steps(1, 20)
        ends.append(run.saved())
        run.opt.close()
    assert differences(*ends) == []
    assert set(children(os.getpid())) <= set(before), "a process was started"


def test_matrices_and_chunks_of_some_size_have_the_daemons_bits(shared_daemon):
    """More AdamW elements than the daemon's chunks hold, gradients of any scale, all kinds of update scales."""
    ends = []
    for options in ({"endpoint": shared_daemon}, {"daemon": None}):
        torch.manual_seed(3)
        shapes = [(300, 130), (130, 300), (257, 257), (64, 1000), (3, 4, 5, 6)]
        params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        rest = [nn.Parameter(torch.randn(shape)) for shape in [(700, 333), (90001,), (2, 3, 5)]]
        scales = ["original", "match_rms_adamw", "spectral_unclamped", "sqrt_max", "none"]
        groups = [
            {"params": [p], "adjust_lr_fn": s, "use_muon": True}
            for p, s in zip(params, scales, strict=True)
        ]
        opt = muond.Muon(
            [*groups, {"params": rest, "use_muon": False}],
            ns_coefficients="polar_express_105",
            clip_norm=3.0,
            **options,
        )
        for step in range(5):
            for p in params + rest:
                p.grad = torch.randn(p.shape) * 10.0 ** (3 * step - 9)
            opt.step()
        ends.append({"model": dict(enumerate(params + rest)), "optimizer": opt.state_dict()})
        opt.close()
    assert differences(*ends) == []


@pytest.mark.parametrize("name", ["network", "groups"])
def test_state_goes_from_the_daemon_to_this_process_and_back(name, shared_daemon, tmp_path: Path):
    daemon, inside = {"endpoint": shared_daemon}, {"daemon": None}

    def run(first: int, last: int, options: dict, load: bool) -> dict:
        job = Run(JOBS[name], "muond", ddp=False, first=first, **options)
        if load:
            job.load(torch.load(tmp_path / "state.pt"))
        job.steps(first, last)
        saved = job.saved()
        torch.save(saved, tmp_path / "state.pt")
        job.opt.close()
        return saved

    whole = run(1, 15, daemon, load=False)
    run(1, 5, daemon, load=False)
    run(6, 10, inside, load=True)
    assert differences(whole, run(11, 15, daemon, load=True)) == []
    run(1, 5, inside, load=False)
    run(6, 10, daemon, load=True)
    assert differences(whole, run(11, 15, inside, load=True)) == []


def test_a_nan_says_what_the_daemon_says_and_changes_nothing(shared_daemon):
    told = []
    for options in ({"endpoint": shared_daemon}, {"daemon": None}):
        params, opt = _mixed(**options)
        set_gradients(params, 0)
        opt.step()
        set_gradients(params, 1)
        params[12].grad[-1] = float("inf")
        params[14].grad.fill_(float("nan"))
        before = copy.deepcopy((params, opt.state_dict()))
        with pytest.raises(muond.NonFiniteGradientError) as caught:
            opt.step()
        told.append((str(caught.value), caught.value.step, caught.value.tensor))
        assert all(torch.equal(a, b) for a, b in zip(before[0], params, strict=True))
        after = opt.state_dict()["state"]
        for i, values in before[1]["state"].items():
            assert all(torch.equal(value, after[i][key]) for key, value in values.items())
        set_gradients(params, 1)
        opt.step()
        assert opt.state[params[12]]["step"] == 2, "void steps do not count"
        opt.close()
    (daemons, *place), (ours, *ours_place) = told
    assert ours_place == place == [2, "group1.param2"]
    assert daemons.startswith(ours.split(":")[0] + ":"), "the daemon adds its own sentence"
    assert ours.endswith("the gradient of group1.param2 holds NaN or Inf: 1 of 300 elements")


def test_a_nan_can_be_skipped_and_the_scaler_skips():
    params, opt = _mixed(daemon=None, on_nonfinite="skip")
    set_gradients(params, 0)
    params[3].grad[0, 0] = float("nan")
    before = [p.detach().clone() for p in params]
    with pytest.warns(UserWarning, match=r"group0\.param3 holds NaN or Inf"):
        opt.step()
    assert opt.skipped_steps == 1
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((params[0] * float("inf")).sum()).backward()
    scaler.step(opt)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_a_scaled_loss_steps_as_an_unscaled_one(shared_daemon):
    ends = []
    for options in ({"endpoint": shared_daemon}, {"daemon": None}):
        params, opt = _mixed(clip_norm=0.5, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(3):
            opt.zero_grad()
            scaler.scale(sum((p * p).sum() for p in params)).backward()
            scaler.step(opt)
            scaler.update()
        ends.append(params)
        opt.close()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_strides_moves_and_gradients_anywhere_have_the_daemons_bits(shared_daemon):
    ends = []
    for options in ({"endpoint": shared_daemon}, {"daemon": None}):
        torch.manual_seed(9)
        turned = nn.Parameter(torch.randn(5, 9).t())
        plain, vector = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(11))
        groups = [{"params": [turned, plain]}, {"params": [vector], "use_muon": False}]
        opt = muond.Muon(groups, **options)
        for step in range(4):
            flat = torch.randn(1 + 42)
            plain.grad = flat[1:].view(6, 7)  # not at a multiple of 16 bytes
            turned.grad, vector.grad = torch.randn(9, 5), torch._neg_view(torch.randn(11))
            if step == 2:
                plain.data = plain.data.clone() + 1
            opt.step()
        assert turned.stride() == (1, 9)
        ends.append([turned, plain, vector])
        opt.close()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_parameters_stay_where_they_are_and_autograd_notices():
    p = nn.Parameter(torch.ones(3, 4))
    home = p.data_ptr()
    opt = muond.Muon([p], lr=0.5, daemon=None)
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.data_ptr() == home
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    opt.close()
    assert p.data_ptr() == home
    with pytest.raises(muond.MuondError, match="was closed"):
        opt.step()


def test_on_a_gpu_it_ends_where_it_ends_on_a_cpu():
    """Within what fp16 iterates allow: the bits are an architecture's."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    ends = []
    for device in ("cpu", "cuda"):
        params, _ = _mixed(daemon=None)
        moved = [nn.Parameter(p.detach().to(device)) for p in params]
        groups = [{"params": moved[:10]}, {"params": moved[10:], "use_muon": False}]
        opt = muond.Muon(groups, lr=0.02, clip_norm=1.0, daemon=None)
        for step in range(5):
            set_gradients(params, step)
            for p, q in zip(params, moved, strict=True):
                q.grad = p.grad.to(device)
            opt.step()
        moved[2].grad[0, 0] = float("nan")
        with pytest.raises(muond.NonFiniteGradientError, match=r"group0\.param2"):
            opt.step()
        assert opt.state[moved[12]]["step"] == 5
        ends.append([q.detach().cpu() for q in moved])
        opt.close()
    for p, a, b in zip(params, *ends, strict=True):
        apart, way = (a - b).norm().item(), (a - p.detach()).norm().item()
        assert apart <= 5e-3 * way, (tuple(p.shape), apart, way)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_steps_in_this_process_too_and_alone(copied):
    torch.manual_seed(4)
    model = SmallModel()
    opt = muond.Muon(model, lr=0.02, daemon=None, verbose=False)
    loss_of(model, batch(0)).backward()
    opt.step()
    twin, twin_opt = copied((model, opt))
    kept = [p.detach().clone() for p in model.parameters()]
    loss_of(twin, batch(1)).backward()
    twin_opt.step()
    assert twin_opt.endpoint is None
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad = q.grad
    model.zero_grad()
    loss_of(model, batch(1)).backward()
    opt.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_daemon_none_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUOND_ENDPOINT", "unix:/nowhere/grpc.sock")
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = muond.Muon([p], daemon=None)
    assert opt.endpoint is None
    opt.step()
    assert torch.any(p != 1)


def test_what_does_not_go_together_is_refused():
    p = [nn.Parameter(torch.ones(2, 2))]
    with pytest.raises(ValueError, match="endpoint='unix:/x' names a daemon: give one"):
        muond.Muon(p, daemon=None, endpoint="unix:/x")
    with pytest.raises(ValueError, match=r"daemon must be .* not 'unix:/x'; .* with endpoint="):
        muond.Muon(p, daemon="unix:/x")
    with pytest.raises(ValueError, match="needs a daemon, which averages"):
        muond.Muon(p, daemon=None, data_parallel="unreduced")


def test_a_sharded_parameter_is_refused_by_name():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        model = nn.Sequential(nn.Linear(4, 4))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        opt = muond.Muon(model, daemon=None, verbose=False)
        with pytest.raises(ValueError, match=r"0\.weight is a DTensor .* leave daemon=None away"):
            opt.step()
    finally:
        dist.destroy_process_group()


def test_an_unknown_table_is_refused_before_anything_moves():
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    opt = muond.Muon([p], daemon=None, ns_coefficients="polar")
    with pytest.raises(muond.MuondError, match=r"group 0.*polar.*jordan"):
        opt.step()
    assert torch.all(p == 1)
    opt.param_groups[0]["ns_coefficients"] = "you5"
    opt.step()
    assert torch.any(p != 1)
