"""One job on one GPU, through a daemon process on the same GPU."""

from __future__ import annotations

import gpu_job
import pytest
import torch
from jobs import differences, run_job

import muond
from muond import device as devices
from muond._session import Daemon

STEPS = 20


@pytest.fixture(scope="module")
def daemon():
    uuid = devices.uuid_of(torch.device("cuda:0"))
    started = Daemon(arguments=devices.daemon_arguments([uuid]), log_path="-")
    yield started.endpoint
    started.stop()


@pytest.fixture(scope="module")
def undisturbed(daemon: str) -> dict:
    return gpu_job.train(STEPS, endpoint=daemon)


def test_parameters_live_in_device_memory_of_the_daemon(daemon):
    model = gpu_job.model_of("cuda:0")
    before = [p.detach().clone() for p in model.parameters()]
    opt = muond.Muon(model, lr=0.02, endpoint=daemon, verbose=False)
    addresses = [p.data_ptr() for p in model.parameters()]
    gpu_job.loss_of(model, gpu_job.batch(1, 0, "cuda:0")).backward()
    opt.step()
    opt.synchronize()
    for (name, p), address, old in zip(model.named_parameters(), addresses, before, strict=True):
        if p.grad is None:
            assert torch.equal(p, old), name
            continue
        assert p.is_cuda, name
        assert p.data_ptr() != address, name
        assert torch.isfinite(p).all(), name
        assert not torch.equal(p, old), name
    opt.close()
    assert all(p.is_cuda and torch.isfinite(p).all() for p in model.parameters())


def test_the_host_does_not_wait_for_a_step(daemon):
    model = gpu_job.model_of("cuda:0")
    opt = muond.Muon(model, lr=0.02, endpoint=daemon, verbose=False)
    for step in range(3):
        opt.zero_grad()
        gpu_job.loss_of(model, gpu_job.batch(step, 0, "cuda:0")).backward()
        opt.step()
    opt.synchronize()
    torch.cuda._sleep(1_000_000_000)  # half a second of the GPU before the gradients are there
    done = torch.cuda.Event()
    opt.step()
    done.record()
    assert not done.query()
    opt.synchronize()
    assert done.query()
    opt.close()


def test_it_learns_as_torch_does(undisturbed):
    """Against torch.optim.Muon and AdamW here: other precision, the same trajectory."""
    torch.use_deterministic_algorithms(True)
    model = gpu_job.model_of("cuda:0")
    muon, adamw = [], []
    for item in muond.routing.route_model(model):
        if item.name != "never":
            (muon if item.use_muon else adamw).append(item.parameter)
    optimizers = [
        torch.optim.Muon(muon, lr=gpu_job.SETTINGS["lr"], weight_decay=0.1),
        torch.optim.AdamW(adamw, lr=gpu_job.SETTINGS["adamw_lr"], weight_decay=0.01, fused=True),
    ]
    losses = []
    for step in range(1, STEPS + 1):
        model.zero_grad()
        loss = gpu_job.loss_of(model, gpu_job.batch(step, 0, "cuda:0"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), gpu_job.SETTINGS["clip_norm"])
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.detach())
    theirs, ours = torch.stack(losses).cpu(), undisturbed["losses"]
    assert (ours[-1] < ours[0] - 0.3).item(), ours
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    fresh = gpu_job.model_of("cpu")
    for (name, p), start in zip(model.named_parameters(), fresh.parameters(), strict=True):
        moved = (p.detach().cpu() - start).norm()
        apart = (p.detach().cpu() - undisturbed["weights"][name]).norm()
        assert apart <= 0.1 * moved + 1e-6, f"{name}: moved {moved:.4g}, apart {apart:.4g}"


def test_two_runs_end_with_the_same_bits(undisturbed, daemon):
    assert differences(undisturbed, gpu_job.train(STEPS, endpoint=daemon)) == []


def test_the_engine_in_this_process_has_the_daemons_bits(undisturbed):
    assert differences(undisturbed, gpu_job.train(STEPS, daemon=None)) == []


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
        {"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
        {"JOB_BY_UUID": "1"},
    ],
    ids=["expandable_segments", "cudaMallocAsync", "one_connection", "visible_by_uuid"],
)
def test_a_job_of_its_own_daemon_has_the_same_bits(environment, undisturbed, tmp_path):
    if environment.pop("JOB_BY_UUID", None):
        environment["CUDA_VISIBLE_DEVICES"] = str(devices.uuid_of(torch.device("cuda:0")))
    assert differences(undisturbed, run_job(tmp_path / "end.pt", STEPS, **environment)) == []


def test_a_nan_changes_nothing_and_is_told_by_the_next_step(daemon):
    model = gpu_job.model_of("cuda:0")
    opt = muond.Muon(model, lr=0.02, endpoint=daemon, verbose=False)
    for step in range(3):
        opt.zero_grad()
        gpu_job.loss_of(model, gpu_job.batch(step, 0, "cuda:0")).backward()
        if step == 2:
            before = [p.detach().clone() for p in model.parameters()]
            model.blocks[1].down.weight.grad[3, 5] = float("nan")
        opt.step()
    with pytest.raises(muond.NonFiniteGradientError, match=r"blocks\.1\.down\.weight"):
        opt.synchronize()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    opt.zero_grad()
    gpu_job.loss_of(model, gpu_job.batch(9, 0, "cuda:0")).backward()
    opt.step()
    opt.synchronize()
    assert not torch.equal(model.lm_head.weight, before[-1])
    opt.close()


def test_state_goes_out_and_in(daemon):
    def steps(opt, model, first, last):
        for step in range(first, last):
            opt.zero_grad()
            gpu_job.loss_of(model, gpu_job.batch(step, 0, "cuda:0")).backward()
            opt.step()

    whole, model = gpu_job.model_of("cuda:0"), gpu_job.model_of("cuda:0")
    opt = muond.Muon(whole, **gpu_job.SETTINGS, endpoint=daemon, verbose=False)
    steps(opt, whole, 0, 6)
    opt.close()
    first = muond.Muon(model, **gpu_job.SETTINGS, endpoint=daemon, verbose=False)
    steps(first, model, 0, 3)
    saved = first.state_dict()
    assert all(v.is_cuda for s in saved["state"].values() for k, v in s.items() if k != "step")
    first.close()
    second = muond.Muon(model, **gpu_job.SETTINGS, endpoint=daemon, verbose=False)
    second.load_state_dict(saved)
    steps(second, model, 3, 6)
    second.close()
    for (name, a), b in zip(whole.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b), name
