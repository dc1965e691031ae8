"""A training job as a process of its own, for tests that kill things: deterministic, and it writes down what it ends with.

    python job.py OUT STEPS [PAUSE_SECONDS]

Prints one line a step: "step N ENDPOINT".
"""

from __future__ import annotations

import sys
import time

import torch
from reference import SmallModel, batch, loss_of

import muond


def main(out: str, steps: int, pause: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(11)
    model = SmallModel()
    opt = muond.Muon(model, lr=0.02, adamw_lr=2e-3, clip_norm=1.0, verbose=False)
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
        print(f"step {step} {opt.endpoint}", flush=True)
        time.sleep(pause)
    state = opt.state_dict()
    opt.close()
    torch.save({"weights": [p.detach() for p in model.parameters()], "state": state}, out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
