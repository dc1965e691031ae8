"""A training job as a process of its own, for tests that kill things: deterministic, and it writes down what it ends with.

    python job.py OUT STEPS PAUSE_SECONDS

Prints one line a step: "step N ENDPOINT".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from reference import SmallModel, batch, loss_of

import muond


def train(
    steps: int, pause: float = 0.0, endpoint: str | None = None, say: Callable[[str], None] = str
) -> dict:
    """The whole job; what it ends with."""
    torch.manual_seed(11)
    model = SmallModel()
    opt = muond.Muon(model, lr=0.02, adamw_lr=2e-3, clip_norm=1.0, endpoint=endpoint, verbose=False)
    for step in range(1, steps + 1):
        opt.zero_grad()
        loss_of(model, batch(step)).backward()
        if step % 5 == 0:  # a step that is void changes nothing, also when a stepper dies in it
            model.down.weight.grad[0, 0] = float("nan")
            try:
                opt.step()
            except muond.NonFiniteGradientError:
                pass
            else:
                raise AssertionError("a NaN went unnoticed")
        else:
            opt.step()
        if step == 4:
            kept = opt.state_dict()
        if step == 8:  # back to older state: half of a load would show
            opt.load_state_dict(kept)
        say(f"step {step} {opt.endpoint}")
        time.sleep(pause)
    state = opt.state_dict()
    opt.close()
    return {"weights": [p.detach() for p in model.parameters()], "state": state}


if __name__ == "__main__":
    torch.set_num_threads(1)
    end = train(int(sys.argv[2]), float(sys.argv[3]), say=lambda line: print(line, flush=True))
    torch.save(end, sys.argv[1])
