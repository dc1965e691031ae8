"""Where parameters go, and the table that says it."""

from __future__ import annotations

import pytest
import torch
from reference import SmallModel
from torch import nn

import muond
from muond import routing


def rules(model: nn.Module, route=None) -> dict[str, bool]:
    return {item.name: item.use_muon for item in routing.route_model(model, route)}


def test_matrices_go_to_muon_and_the_rest_to_adamw():
    chosen = rules(SmallModel())
    assert [name for name, use_muon in chosen.items() if use_muon] == [
        "frozen",
        "up.weight",
        "down.weight",
        "unused.weight",
    ]
    assert "head.weight" not in chosen, "a tied weight counts once"


def test_the_head_is_found_by_its_size_and_by_its_name():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.Linear(16, 50))
    assert [use_muon for name, use_muon in rules(model).items() if name.endswith("weight")] == [
        False,
        True,
        False,
    ]
    named = nn.ModuleDict({"body": nn.Linear(8, 8), "lm_head": nn.Linear(8, 8)})
    assert rules(named)["body.weight"]
    assert not rules(named)["lm_head.weight"]


def test_a_convolution_goes_to_muon_only_when_routed_there():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4))
    assert not rules(model)["0.weight"]
    assert rules(model, lambda name, p: True if p.ndim == 4 else None)["0.weight"]
    opt = muond.Muon(model, route=lambda name, p: True if p.ndim == 4 else None, verbose=False)
    assert [tuple(p.shape) for p in opt.param_groups[0]["params"]] == [(4, 3, 3, 3), (4, 4)]


def test_a_route_that_cannot_be_is_refused_with_name_and_shape():
    with pytest.raises(ValueError, match=r"1\.bias.*\(4,\)"):
        muond.Muon(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4)), route=lambda n, p: n == "1.bias"
        )


def test_named_parameters_are_routed_by_name_and_shape():
    named = [
        ("wte.weight", nn.Parameter(torch.ones(9, 4))),
        ("h.0.attn.weight", nn.Parameter(torch.ones(4, 4))),
        ("h.0.ln_1.weight", nn.Parameter(torch.ones(4))),
        ("lm_head.weight", nn.Parameter(torch.ones(9, 4))),
    ]
    opt = muond.Muon(named, verbose=False)
    assert [len(group["params"]) for group in opt.param_groups] == [1, 3]
    assert opt.param_groups[0]["params"][0] is named[1][1]


def test_the_table_is_printed_with_totals(capsys):
    muond.Muon(SmallModel())
    table = capsys.readouterr().out
    assert "embedding.weight" in table
    assert "51 x 24" in table
    assert "to Muon" in table
    muond.Muon(SmallModel(), verbose=False)
    assert capsys.readouterr().out == ""


def _lines(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines()}


def test_the_table_of_a_deep_model_is_short_and_names_ranges():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 8)

    model = nn.ModuleDict({"h": nn.ModuleList(Block() for _ in range(40)), "fc2": nn.Linear(8, 8)})
    table = routing.table(routing.route_model(model))
    lines = _lines(table)
    assert len(lines) < 15
    assert lines["h.0-39.down.weight"].split()[1:7] == ["8", "x", "32", "40", "10,240", "muon"]
    assert "fc2.weight" in lines, "a single name is told as it is"
    assert table.splitlines()[9].startswith("muond: 81 tensors (20,544 elements) to Muon, 161 (")


def test_what_looks_odd_is_noted_below_the_table():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.Linear(16, 9))
    model.gate = nn.Parameter(torch.ones(1, 16))
    model[1].weight.requires_grad_(False)
    table = routing.table(
        routing.route_model(model, lambda n, p: True if n == "0.weight" else None)
    )
    notes = {line.split()[1]: line for line in table.splitlines() if line.startswith("note: ")}
    assert "vector" in notes["gate"]
    assert "last Linear" in notes["2.weight"]
    assert "embedding" in notes["0.weight"]
    assert "1.weight" not in notes
    assert _lines(table)["1.weight"].endswith("matrix, frozen")
    plain = routing.table(routing.route_model(nn.Linear(8, 8)))
    assert "note" not in plain


def test_groups_choose_for_themselves():
    a, b = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    opt = muond.Muon([{"params": [a]}, {"params": [b], "use_muon": False, "lr": 0.5}], lr=0.1)
    assert opt.param_groups[0]["momentum"] == 0.95
    assert "betas" not in opt.param_groups[0]
    assert opt.param_groups[1]["betas"] == (0.9, 0.999)
    assert opt.param_groups[1]["lr"] == 0.5
    assert "momentum" not in opt.param_groups[1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"momentum": -0.1}, "momentum should be >= 0 but is: -0.1"),
        ({"weight_decay": -0.1}, "weight decay should be >= 0 but is: -0.1"),
        ({"adjust_lr_fn": "spectral"}, "Adjust learning rate function spectral is not supported"),
        ({"ns_steps": 100}, "Number of steps must be less than 100"),
        ({"ns_coefficients": (1.0, 2.0)}, "Coefficients must be a tuple of exactly 3 values"),
        ({"adamw_betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ({"clip_norm": 0.0}, "clip_norm should be > 0 but is: 0.0"),
        ({"data_parallel": "maybe"}, "data_parallel must be one of"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be"),
    ],
)
def test_bad_arguments_are_refused_as_torch_does(arguments, error):
    with pytest.raises(ValueError, match=error):
        muond.Muon([nn.Parameter(torch.ones(2, 2))], **arguments)


def test_vectors_among_plain_parameters_are_refused_as_torch_does():
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        muond.Muon([nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        muond.Muon([{"params": [nn.Parameter(torch.ones(2))], "use_muon": True}])
    with pytest.raises(TypeError, match="should be an iterable"):
        muond.Muon(nn.Parameter(torch.ones(2, 2)))
    with pytest.raises(ValueError, match="empty parameter list"):
        muond.Muon([])


def test_a_refused_group_is_not_kept():
    opt = muond.Muon([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match="2D"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert len(opt.param_groups) == 1
    with pytest.raises(ValueError, match="amsgrad=True"):
        opt.add_param_group(
            {"params": [nn.Parameter(torch.ones(2))], "use_muon": False, "amsgrad": True}
        )
    assert len(opt.param_groups) == 1
