"""What a real daemon computes, against torch's optimizers in this process, over many steps."""

from __future__ import annotations

import math

import pytest
import torch
from reference import (
    COEFFICIENTS,
    ReferenceMuon,
    SmallModel,
    batch,
    clone_of,
    loss_of,
    matrices,
    orthogonalize,
    set_gradients,
    vectors,
)
from torch import nn

import muond

STEPS = 200


def distance(
    ours: list[nn.Parameter], theirs: list[nn.Parameter], start: list[nn.Parameter]
) -> float:
    """The largest difference, relative to how far the parameter has moved."""
    worst = 0.0
    for a, b, c in zip(ours, theirs, start, strict=True):
        moved = (b - c).abs().max().item()
        worst = max(worst, (a - b).abs().max().item() / max(moved, 1e-30))
    return worst


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nesterov": False, "momentum": 0.8, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw", "lr": 3e-3},
        {"adjust_lr_fn": "spectral_unclamped", "momentum": 0.0},
    ],
    ids=["defaults", "plain-momentum", "match-rms", "spectral"],
)
def test_muon_follows_the_polynomial_for_200_steps(shared_daemon, settings):
    settings = {"lr": 0.02, "weight_decay": 0.1, **settings}
    ours, theirs, start = matrices(), matrices(), matrices()
    opt = muond.Muon(ours, endpoint=shared_daemon, **settings)
    scale = settings.pop("adjust_lr_fn", "original")
    reference = ReferenceMuon(theirs, scale=scale, **settings)
    for step in range(STEPS if scale == "original" else 50):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        reference.step()
        for optimizer in (opt, reference):
            optimizer.param_groups[0]["lr"] *= 0.99
    momentum = [opt.state[p]["momentum_buffer"] for p in ours]
    opt.close()
    assert distance(ours, theirs, start) < 2e-4
    for p, q, m in zip(ours, theirs, momentum, strict=True):
        torch.testing.assert_close(m, reference.state[q]["momentum_buffer"], msg=str(p.shape))


def test_the_update_is_closer_to_the_exact_polynomial_than_torchs(shared_daemon):
    """NUMERICS: ||X_muond - X_fp64|| <= ||X_torch - X_fp64||, Frobenius and max, for the same coefficients."""
    shapes = [(48, 80), (80, 48), (64, 64), (1, 30), (30, 1), (17, 200), (130, 33)]
    spectra = {
        "gaussian": lambda k: torch.ones(k),
        "inverse": lambda k: 1.0 / torch.arange(1, k + 1),
        "exponential": lambda k: torch.logspace(0, -5, k),
        "outlier": lambda k: torch.cat([torch.full((1,), 1e4), torch.ones(k - 1)]),
        "tiny": lambda k: torch.full((k,), 1e-12),
    }
    gradients = []
    for m, n in shapes:
        for make in spectra.values():
            k = min(m, n)
            u = torch.linalg.qr(torch.randn(m, k))[0]
            v = torch.linalg.qr(torch.randn(n, k))[0]
            gradients.append((u * make(k)) @ v.T)
    settings = {"lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    ours = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    theirs = clone_of(ours)
    opt = muond.Muon(ours, endpoint=shared_daemon, **settings)
    reference = torch.optim.Muon(theirs, **settings)
    for p, q, g in zip(ours, theirs, gradients, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    opt.step()
    reference.step()
    opt.close()
    for p, q, g in zip(ours, theirs, gradients, strict=True):
        m, n = g.shape
        exact = -math.sqrt(max(1, m / n)) * orthogonalize(g, dtype=torch.float64)
        for order in (2, float("inf")):
            mine = torch.linalg.vector_norm(p.detach().double() - exact, order).item()
            torchs = torch.linalg.vector_norm(q.detach().double() - exact, order).item()
            assert mine <= torchs, (m, n, order)


def test_other_coefficients_and_counts_are_taken(shared_daemon):
    p, q = matrices(shapes=[(20, 30)])[0], matrices(shapes=[(20, 30)])[0]
    quintic = (3.0, -16 / 5, 6 / 5)
    opt = muond.Muon([p], lr=0.1, ns_coefficients=quintic, ns_steps=3, endpoint=shared_daemon)
    assert quintic != COEFFICIENTS
    set_gradients([p], 0)
    gradient = p.grad.double()
    before = q.detach().double()
    opt.step()
    opt.close()
    x = (gradient * 0.05).lerp(gradient, 1 - 0.95)  # the direction; its size does not matter
    x = x / x.norm()
    for _ in range(3):
        gram = x @ x.T
        x = quintic[0] * x + (quintic[1] * gram + quintic[2] * gram @ gram) @ x
    torch.testing.assert_close(p.detach(), (before * (1 - 0.1 * 0.1) - 0.1 * x).float())


def test_adamw_is_torchs_for_200_steps(shared_daemon):
    ours, theirs, start = vectors(), vectors(), vectors()
    opt = muond.Muon(
        [{"params": ours, "use_muon": False, "lr": 3e-3, "weight_decay": 0.05}],
        endpoint=shared_daemon,
    )
    reference = torch.optim.AdamW(theirs, lr=3e-3, weight_decay=0.05, foreach=False)
    for step in range(STEPS):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        if step % 7 == 3:  # no gradient: skipped, decay and count included
            ours[2].grad = theirs[2].grad = None
        opt.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        state = {key: opt.state[p][key] for key in ("step", "exp_avg", "exp_avg_sq")}
        for key, value in state.items():
            torch.testing.assert_close(
                value, reference.state[q][key], rtol=2e-5, atol=1e-9, msg=key
            )
    opt.close()
    assert distance(ours, theirs, start) < 1e-5


def test_clipping_is_clip_grad_norms(shared_daemon):
    ours, theirs, start = matrices() + vectors(), matrices() + vectors(), matrices() + vectors()
    groups = lambda all_of: (all_of[:10], all_of[10:])  # noqa: E731
    muon, rest = groups(ours)
    opt = muond.Muon(
        [{"params": muon}, {"params": rest, "use_muon": False}],
        lr=0.02,
        clip_norm=0.5,
        endpoint=shared_daemon,
    )
    muon, rest = groups(theirs)
    references = [ReferenceMuon(muon, lr=0.02), torch.optim.AdamW(rest, foreach=False)]
    for step in range(40):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        opt.step()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        for reference in references:
            reference.step()
    opt.close()
    assert distance(ours, theirs, start) < 2e-4


def _train(model: nn.Module, optimizers: list, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_of(model, batch(step % 8))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_model_trains_as_with_torchs_two_optimizers(shared_daemon):
    torch.manual_seed(5)
    model = SmallModel()
    torch.manual_seed(5)
    twin = SmallModel()
    opt = muond.Muon(model, lr=0.02, endpoint=shared_daemon, verbose=False)
    chosen = [id(p) for p in opt.param_groups[0]["params"]]
    pairs = list(zip(model.parameters(), twin.parameters(), strict=True))
    muon = [q for p, q in pairs if id(p) in chosen]
    rest = [q for p, q in pairs if id(p) not in chosen]
    ours = _train(model, [opt], STEPS)
    theirs = _train(twin, [torch.optim.Muon(muon, lr=0.02), torch.optim.AdamW(rest)], STEPS)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.frozen, twin.frozen)
    assert torch.equal(model.unused.weight, twin.unused.weight), "no gradient: not even decayed"
    opt.close()
    assert ours[-1] < 0.7 * ours[0]
    # torch iterates in bf16: the curves agree, the bits do not.
    for a, b in zip(ours[:20], theirs[:20], strict=True):
        assert a == pytest.approx(b, rel=0.02)
    assert sum(ours[-8:]) == pytest.approx(sum(theirs[-8:]), rel=0.1)


def test_the_same_steps_give_the_same_bits_on_one_and_on_three_devices(shared_daemon):
    from muond._session import Daemon

    daemon = Daemon(arguments=["--cpu-devices", "1"])
    results = []
    for endpoint in (shared_daemon, daemon.endpoint):
        params = matrices() + vectors()
        opt = muond.Muon(
            [{"params": params[:10]}, {"params": params[10:], "use_muon": False}], endpoint=endpoint
        )
        for step in range(10):
            set_gradients(params, step)
            opt.step()
        opt.close()
        results.append(params)
    daemon.stop()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b), a.shape
