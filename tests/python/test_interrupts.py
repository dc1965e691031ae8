"""Ctrl-C at any line of a step: the step counts as a whole or not at all, and the next one is made."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

import muond

_PACKAGE = str(Path(muond.__file__).parent)


class _Interrupt:
    """Raises KeyboardInterrupt before the ``at``-th line that runs in the package."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> _Interrupt:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame, event, _argument):
        ours = frame.f_code.co_filename.startswith(_PACKAGE)
        # Python itself swallows what is raised in a __del__.
        return self._line if ours and frame.f_code.co_name != "__del__" else None

    def _line(self, _frame, event, _argument):
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def _interrupted(at: int, opt: muond.Muon) -> bool:
    try:
        with _Interrupt(at):
            opt.step()
    except KeyboardInterrupt:
        return True
    return False


def _one_after_the_other(
    opt: muond.Muon, params: list[nn.Parameter], moved, stride: int = 1
) -> int:
    """Interrupts a step at its first line, then ``stride`` lines later, ... until it has no more; how many there were."""
    line = 0
    while True:
        for p in params:
            p.grad = torch.ones_like(p)
        before = [p.detach().clone() for p in params]
        interrupted = _interrupted(line, opt)
        opt.state_dict()
        results = [moved(p, b) for p, b in zip(params, before, strict=True)]
        assert results in ([True] * len(params), [False] * len(params)), f"torn at line {line}"
        before = [p.detach().clone() for p in params]
        opt.step()
        assert all(moved(p, b) for p, b in zip(params, before, strict=True)), f"line {line}"
        if not interrupted:
            return line
        line += stride


def test_ctrl_c_at_every_line_of_a_step(echo):
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 2).t())]
    opt = muond.Muon(params, lr=1.0, endpoint=echo)

    def moved(p: nn.Parameter, before: torch.Tensor) -> bool:
        assert torch.all(p == before) or torch.all(p == before - 1), p
        return torch.all(p == before - 1)

    opt.step()
    assert _one_after_the_other(opt, params, moved) > 50


def test_ctrl_c_at_every_line_of_a_step_in_this_process():
    params = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 2).t())]
    groups = [{"params": params[:1]}, {"params": params[1:], "use_muon": False}]
    opt = muond.Muon(groups, daemon=None, clip_norm=1.0)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    steps = 1

    def moved(p: nn.Parameter, before: torch.Tensor) -> bool:
        nonlocal steps
        change = not torch.equal(p, before)
        if p is params[1]:
            steps += change
            assert opt.state[p]["step"] == steps, "a step that moves counts, and no other does"
        return change

    assert _one_after_the_other(opt, params, moved) > 50


def test_ctrl_c_during_a_step_with_a_daemon(shared_daemon):
    p = nn.Parameter(torch.zeros(2, 2))
    opt = muond.Muon([{"params": [p], "use_muon": False}], endpoint=shared_daemon)
    p.grad = torch.ones_like(p)
    opt.step()
    steps = 1

    def moved(p: nn.Parameter, before: torch.Tensor) -> bool:
        nonlocal steps
        change = not torch.equal(p, before)
        steps += change
        assert opt.state[p]["step"] == steps, "a step that moves counts, and no other does"
        return change

    assert _one_after_the_other(opt, [p], moved, stride=3) > 50
    opt.close()


def test_ctrl_c_during_the_first_step(shared_daemon):
    line, interrupted = 0, True
    while interrupted:
        p = nn.Parameter(torch.zeros(2, 2).t())
        p.grad = torch.ones_like(p)
        opt = muond.Muon([p], endpoint=shared_daemon, job="interrupted")
        interrupted = _interrupted(line, opt)
        opt.step()
        assert torch.any(p != 0)
        opt.close()
        line += 5
    assert line > 200
