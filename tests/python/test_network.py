"""A small transformer under FSDP2 on two ranks: recomputation, tied, unused, frozen and thawed parameters, torch's clipping, in bits and in losses."""

from __future__ import annotations

import pytest
import torch
from mesh_worker import scenarios, whole
from network_worker import STEPS, THAWED_AT, Network, loss_of, settings, thaw
from test_ddp import saved, spawn
from torch import nn

import muond
from muond.routing import route_model


@pytest.fixture(scope="module")
def trained(shared_daemon: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUOND_ENDPOINT", shared_daemon)
        assert spawn(scenarios, 2, folder, "network_worker:trained") == [0, 0]
    return saved(folder, "trained", 2)


def test_the_reduced_gradients_give_plain_trainings_bits(trained, shared_daemon):
    model = Network()
    opt = muond.Muon(model, endpoint=shared_daemon, **settings())
    for step, gradients in enumerate(trained[0]["gradients"]):
        if step == THAWED_AT:
            thaw(model)
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
        opt.step()
    state = whole(opt.state_dict())
    opt.close()
    for rank in trained:
        for (name, p), theirs in zip(model.named_parameters(), rank["weights"], strict=True):
            assert torch.equal(p, theirs), name
        for index, values in state.items():
            for key, value in values.items():
                assert torch.equal(value, rank["state"][index][key]), (index, key)


def test_losses_are_those_of_torchs_optimizers_on_the_whole_model(trained):
    model = Network()
    named = route_model(model)
    matrices = [item.parameter for item in named if item.use_muon]
    rest = [item.parameter for item in named if not item.use_muon]
    ours = settings()
    optimizers = [
        torch.optim.Muon(matrices, lr=ours["lr"]),
        torch.optim.AdamW(rest, lr=ours["adamw_lr"], weight_decay=0.01),
    ]
    losses = []
    for step in range(STEPS):
        if step == THAWED_AT:
            thaw(model)
        loss = loss_of(model, step, None)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    for step, (theirs, found) in enumerate(zip(losses, trained[0]["losses"], strict=True)):
        assert found == pytest.approx(theirs, rel=0.01), f"step {step}"  # bfloat16 products there


def test_names_are_the_models_own(trained):
    assert set(trained[0]["names"]) == {name for name, _ in Network().named_parameters()}
