"""The optimizer as torch code sees it, over the echo: no daemon, a step is p -= lr * g / scale."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from reference import SmallModel, batch, loss_of
from torch import nn

import muond


def one(echo: str, shape=(3, 4), **arguments):
    p = nn.Parameter(torch.ones(shape))
    return p, muond.Muon([p], lr=0.5, endpoint=echo, **arguments)


def test_a_step_moves_what_has_a_gradient(echo):
    model = SmallModel()
    opt = muond.Muon(model, lr=0.1, adamw_lr=0.1, endpoint=echo, verbose=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss_of(model, batch(0)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    opt.step()
    for name, p in model.named_parameters():
        if gradients[name] is None:
            assert torch.equal(p, before[name]), name
        else:
            torch.testing.assert_close(p.detach(), before[name] - 0.1 * gradients[name], msg=name)
    assert model.head.weight is model.embedding.weight
    opt.close()


def test_schedulers_drive_the_rate(echo):
    p, opt = one(echo)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1.0 / (1 + step))
    for expected in (0.5, 0.25, 0.5 / 3):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        opt.step()
        scheduler.step()
        torch.testing.assert_close(p.detach(), before - expected)


def test_a_closure_is_run_with_gradients_and_its_loss_returned(echo):
    p, opt = one(echo)

    def closure():
        opt.zero_grad()
        loss = (p * 2).sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 24.0
    assert torch.all(p == 0)


def test_zero_grad_and_hooks_are_torchs(echo):
    p, opt = one(echo)
    called = []
    opt.register_step_pre_hook(lambda *_: called.append("before"))
    opt.register_step_post_hook(lambda *_: called.append("after"))
    p.grad = torch.ones_like(p)
    opt.step()
    opt.zero_grad()
    assert p.grad is None
    assert called == ["before", "after"]


def test_a_group_may_come_late_and_keeps_the_others_state(echo):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    opt.step()
    opt.state[p]["momentum_buffer"] = torch.full((3, 4), 5.0)
    late = nn.Parameter(torch.ones(2, 2))
    opt.add_param_group({"params": [late], "lr": 0.25})
    late.grad = torch.ones(2, 2)
    opt.step()
    assert torch.all(late == 0.75)
    assert torch.all(opt.state[p]["momentum_buffer"] == 5.0)


def test_a_parameter_unfrozen_later_joins(echo):
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2), requires_grad=False)
    opt = muond.Muon([p, q], lr=0.5, endpoint=echo)
    p.grad = torch.ones(2, 2)
    opt.step()
    q.requires_grad_(True)
    q.grad = torch.ones(2, 2)
    opt.step()
    assert torch.all(q == 0.5)
    assert torch.all(p == 0)


def test_parameters_are_adopted_once_and_again_when_moved(echo):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    opt.step()
    home = p.data_ptr()
    opt.step()
    assert p.data_ptr() == home
    p.data = torch.full((3, 4), 8.0)
    opt.step()
    assert p.data_ptr() == home
    assert torch.all(p == 7.5)
    with torch.no_grad():
        p.fill_(2.0)
    opt.step()
    assert torch.all(p == 1.5)


def test_strides_are_kept(echo):
    p = nn.Parameter(torch.ones(4, 3).t())
    opt = muond.Muon([p], lr=0.5, endpoint=echo)
    p.grad = torch.arange(12.0).reshape(3, 4)
    opt.step()
    assert p.stride() == (1, 3)
    torch.testing.assert_close(p.detach(), 1 - 0.5 * torch.arange(12.0).reshape(3, 4))


def test_autograd_notices_a_step_between_forward_and_backward(echo):
    p, opt = one(echo)
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_parameters_on_one_memory_are_refused(echo):
    memory = torch.ones(4, 4)
    p, q = nn.Parameter(memory[:3]), nn.Parameter(memory[2:])
    opt = muond.Muon([p, q], endpoint=echo)
    with pytest.raises(ValueError, match="on 16 bytes of one memory"):
        opt.step()


@pytest.mark.parametrize(
    ("parameter", "error", "text"),
    [
        (torch.ones(2, 2, dtype=torch.bfloat16), ValueError, "torch.bfloat16"),
        (torch.ones(2, 2, dtype=torch.float64), ValueError, "torch.float64"),
        (torch.ones(2, 2, dtype=torch.complex64), RuntimeError, "does not support complex"),
        (torch.ones(2, 2, device="meta"), ValueError, "meta"),
    ],
)
def test_parameters_that_cannot_be_served_are_named(echo, parameter, error, text):
    opt = muond.Muon([nn.Parameter(parameter)], endpoint=echo)
    with pytest.raises(error, match=text):
        opt.step()


def test_a_changed_shape_is_refused_with_both_and_nothing_moves(echo):
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 3))
    opt = muond.Muon([p, q], lr=0.5, endpoint=echo)
    p.grad, q.grad = torch.ones(2, 2), torch.ones(3, 3)
    opt.step()
    q.grad = None
    q.data = torch.ones(3, 5)
    q.grad = torch.ones(3, 5)
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(3, 5\)"):
        opt.step()
    assert torch.all(p == 0.5)


def test_sparse_gradients_are_refused(echo):
    p, opt = one(echo)
    p.grad = torch.ones(3, 4).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        opt.step()


def test_a_nan_voids_the_step_and_names_the_tensor(echo):
    named = [
        ("a.weight", nn.Parameter(torch.ones(2, 2))),
        ("b.weight", nn.Parameter(torch.ones(2, 2))),
    ]
    opt = muond.Muon(named, lr=0.5, endpoint=echo, verbose=False)
    (_, a), (_, b) = named
    a.grad, b.grad = torch.ones(2, 2), torch.full((2, 2), float("nan"))
    with pytest.raises(muond.NonFiniteGradientError, match=r"b\.weight") as caught:
        opt.step()
    assert caught.value.tensor == "b.weight"
    assert caught.value.step == 1
    assert torch.all(a == 1)
    b.grad = torch.ones(2, 2)
    opt.step()
    assert torch.all(a == 0.5)


def test_a_nan_can_be_skipped_and_is_counted(echo):
    p, opt = one(echo, on_nonfinite="skip")
    p.grad = torch.full((3, 4), float("inf"))
    with pytest.warns(UserWarning, match="NaN or Inf"):
        opt.step()
    opt.step()
    assert opt.skipped_steps == 2
    assert torch.all(p == 1)


def test_the_grad_scaler_unscales_and_skips(echo):
    p, opt = one(echo)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    scaler.scale((p * 0.5).sum()).backward()
    assert torch.all(p.grad == 4.0)
    scaler.step(opt)
    scaler.update()
    assert torch.all(p == 0.75)
    opt.zero_grad()
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert torch.all(p == 0.75)
    assert scaler.get_scale() == 4.0
    opt.zero_grad()
    scaler.scale((p * 0.5).sum()).backward()
    scaler.unscale_(opt)
    scaler.step(opt)
    assert torch.all(p == 0.5)


def test_state_is_there_before_the_first_step(echo):
    model = SmallModel()
    opt = muond.Muon(model, endpoint=echo, verbose=False)
    assert len(opt.state) == len(list(model.parameters()))
    state = opt.state_dict()["state"]
    assert all(
        set(s) in ({"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"}) for s in state.values()
    )
    assert all(not v.any() for s in state.values() for v in s.values())


def test_torch_distributed_checkpoint_takes_the_state_without_stepping(echo):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = SmallModel()
    opt = muond.Muon(model, endpoint=echo, verbose=False)
    before = model.up.weight.detach().clone()
    state = get_optimizer_state_dict(model, opt)
    assert "momentum_buffer" in state["state"]["up.weight"]
    assert torch.equal(model.up.weight, before)


def test_loaded_state_waits_for_the_first_step_and_then_goes(echo):
    p, opt = one(echo)
    saved = opt.state_dict()
    saved["state"][0]["momentum_buffer"] = torch.full((3, 4), 2.5)
    saved["param_groups"][0]["lr"] = 0.125
    opt.load_state_dict(copy.deepcopy(saved))
    assert opt.param_groups[0]["lr"] == 0.125
    assert torch.all(opt.state_dict()["state"][0]["momentum_buffer"] == 2.5)
    p.grad = torch.ones_like(p)
    opt.step()
    assert torch.all(p == 0.875)
    assert torch.all(opt.state_dict()["state"][0]["momentum_buffer"] == 2.5)
    opt.load_state_dict(saved | {"state": {0: {"momentum_buffer": torch.full((3, 4), 3.5)}}})
    assert torch.all(opt.state[p]["momentum_buffer"] == 3.5)


def test_state_of_the_other_rule_is_refused(echo):
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    opt = muond.Muon([{"params": [a]}, {"params": [b], "use_muon": False}], endpoint=echo)
    saved = opt.state_dict()
    saved["param_groups"].reverse()
    with pytest.raises(ValueError, match="group 0 of the loaded state dict is AdamW's"):
        opt.load_state_dict(saved)


def test_torchs_own_state_dicts_go_in_and_out(echo):
    a, b = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    theirs = [torch.optim.Muon([a], lr=0.3), torch.optim.AdamW([b], lr=0.2)]
    a.grad, b.grad = torch.ones(2, 3), torch.ones(3)
    for optimizer in theirs:
        optimizer.step()
    opt = muond.Muon([{"params": [a]}, {"params": [b], "use_muon": False}], lr=0.5, endpoint=echo)
    opt.load_state_dict(muond.join_state_dicts(*[o.state_dict() for o in theirs]))
    opt.step()
    assert [group["lr"] for group in opt.param_groups] == [0.3, 0.2]
    back = muond.split_state_dict(opt.state_dict())
    for optimizer, state_dict in zip(theirs, back, strict=True):
        before = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(state_dict)
        for key, value in before["state"][0].items():
            assert torch.equal(optimizer.state_dict()["state"][0][key], value), key


def test_trainers_that_touch_state_and_groups_are_understood(echo):
    _, opt = one(echo)
    for state in opt.state.values():  # Lightning moves state so
        for key, value in state.items():
            state[key] = value.to("cpu")
    opt.load_state_dict(opt.state_dict())  # Accelerate does at construction
    q = nn.Parameter(torch.ones(3, 4))
    opt.param_groups[0]["params"] = [q]  # and replaces parameters afterwards
    q.grad = torch.ones(3, 4)
    opt.step()
    assert torch.all(q == 0.5)


def test_after_close_parameters_stay_and_steps_are_refused(echo):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    opt.step()
    view = p.detach()
    opt.close()
    opt.close()
    assert torch.all(p == 0.5)
    assert torch.all(view == 0.5)
    assert p.data_ptr() != view.data_ptr()
    with pytest.raises(muond.MuondError, match="was closed"):
        opt.step()
    with pytest.raises(muond.MuondError, match="was closed"):
        opt.state_dict()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", -1.0),
        ("momentum", -0.5),
        ("weight_decay", float("nan")),
        ("ns_steps", 100),
        ("adjust_lr_fn", "spectral"),
    ],
)
def test_a_setting_that_went_wrong_is_refused_and_the_next_step_is_made(echo, key, value):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    opt.step()
    good = opt.param_groups[0][key]
    opt.param_groups[0][key] = value
    with pytest.raises(ValueError, match=str(value)):
        opt.step()
    assert torch.all(p == 0.5)
    opt.param_groups[0][key] = good
    opt.step()
    assert torch.all(p == 0)


WRONG_NUMBERS = [
    ({"lr": "0.1"}, TypeError, "lr must be a number, not '0.1'"),
    ({"weight_decay": None}, TypeError, "weight_decay must be a number, not None"),
    ({"ns_steps": 2.5}, TypeError, "ns_steps must be an int, not 2.5"),
    ({"ns_coefficients": [(3, -3, 1)] * 3}, TypeError, r"number, not \(3, -3, 1\)"),
    ({"clip_norm": "1"}, TypeError, "clip_norm must be a number, not '1'"),
    ({"step_timeout": -1}, ValueError, "step_timeout should be > 0 seconds but is: -1"),
    ({"endpoint": 8080}, TypeError, "endpoint must be a string, not 8080"),
    ({"adamw_betas": (0.9,)}, ValueError, r"betas must be two numbers, not \(0.9,\)"),
    ({"route": lambda name, p: "adamw"}, TypeError, "route.. says 'adamw' for up.weight"),
]


@pytest.mark.parametrize(("settings", "error", "text"), WRONG_NUMBERS)
def test_a_setting_of_the_wrong_kind_is_refused_at_once(settings, error, text):
    model = nn.ModuleDict({"up": nn.Linear(3, 4)})
    with pytest.raises(error, match=text):
        muond.Muon(model, verbose=False, **settings)


def test_a_group_whose_rule_is_not_clear_is_refused():
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TypeError, match="use_muon must be True or False, not 'no'"):
        muond.Muon([{"params": [p], "use_muon": "no"}])
    with pytest.raises(ValueError, match=r"a group with betas.*must say use_muon=False"):
        muond.Muon([{"params": [p], "betas": (0.9, 0.95)}])
    with pytest.raises(ValueError, match="route is for a model"):
        muond.Muon([{"params": [p]}], route=lambda name, p: True)


def test_another_optimizers_state_is_refused_with_what_is_missing():
    p = nn.Parameter(torch.ones(2, 2))
    sgd, opt = torch.optim.SGD([p], momentum=0.9), muond.Muon([p])
    with pytest.raises(ValueError, match=r"group 0 of the loaded state dict has no ns_coeff.*Muon"):
        opt.load_state_dict(sgd.state_dict())
    assert opt.param_groups[0]["ns_steps"] == 5


def test_a_first_step_in_inference_mode_leaves_parameters_that_train(echo):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    with torch.inference_mode():
        opt.step()
    (p * p).sum().backward()
    opt.step()
    assert torch.all(p == -0.5)


def test_a_clip_norm_that_went_wrong_is_refused_and_infinity_is_none(echo):
    p, opt = one(echo)
    p.grad = torch.ones_like(p)
    for value in (float("nan"), -1.0):
        opt.clip_norm = value
        with pytest.raises(ValueError, match=f"clip_norm.*{value}"):
            opt.step()
    opt.clip_norm = float("inf")
    opt.step()
    assert torch.all(p == 0.5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_has_parameters_settings_and_state_of_its_own(echo, copied):
    model = SmallModel()
    opt = muond.Muon(model, lr=0.5, endpoint=echo, clip_norm=3.0, verbose=False)
    loss_of(model, batch(0)).backward()
    opt.step()
    p = model.up.weight
    opt.state[p]["momentum_buffer"] = torch.full_like(p, 2.5)
    twin, twin_opt = copied((model, opt))
    opt.close()
    q = twin.up.weight
    assert twin_opt.clip_norm == 3.0
    assert torch.equal(p, q)
    before = q.detach().clone()
    q.grad = torch.ones_like(q)
    twin_opt.step()
    torch.testing.assert_close(q.detach(), before - 0.5)
    assert torch.all(twin_opt.state[q]["momentum_buffer"] == 2.5)
    assert not torch.equal(p, q)


def test_a_with_block_closes(echo):
    p = nn.Parameter(torch.ones(2, 2))
    with muond.Muon([p], lr=0.5, endpoint=echo) as opt:
        p.grad = torch.ones(2, 2)
        opt.step()
    assert torch.all(p == 0.5)
    with pytest.raises(muond.MuondError, match="was closed"):
        opt.step()


def test_nothing_to_train_is_no_error(echo):
    p = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    empty = nn.Parameter(torch.ones(0, 2))
    opt = muond.Muon([p, empty], lr=0.5, endpoint=echo)
    opt.step()
    assert opt.endpoint == echo
    p.requires_grad_(True)
    p.grad, empty.grad = torch.ones(2, 2), torch.ones(0, 2)
    opt.step()
    assert torch.all(p == 0.5)


def test_a_gradient_that_is_a_lazy_negation_keeps_its_sign(echo):
    p, opt = one(echo)
    p.grad = torch._neg_view(torch.ones(3, 4))
    opt.step()
    assert torch.all(p == 1.5)


def test_an_expanded_parameter_is_refused_with_its_strides(echo):
    p = nn.Parameter(torch.ones(1, 4).expand(3, 4))
    opt = muond.Muon([p], endpoint=echo)
    p.grad = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"\(3, 4\) has strides \(0, 1\)"):
        opt.step()


def test_compiled_models_step(echo):
    p, opt = one(echo)
    compiled = torch.compile(lambda x: (x * 2).sum(), backend="eager")
    compiled(p).backward()
    opt.step()
    assert torch.all(p == 0)
