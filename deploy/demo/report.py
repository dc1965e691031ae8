"""The table and the picture of the runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from worker import Run

NAMES = {"muond": "muond.Muon", "adamw": "torch AdamW", "torch-muon": "torch Muon + AdamW"}


def _median_ms(seconds: Sequence[float]) -> float:
    """Median without the first steps, which warm up."""
    return 1e3 * statistics.median(seconds[min(3, len(seconds) - 1):])


def _smooth(run: Run, steps: int) -> float:
    """Mean loss of the last ten of the first ``steps`` steps."""
    return statistics.fmean(run.losses[max(0, steps - 10) : steps])


def table(runs: Sequence[Run]) -> str:
    """Final losses and milliseconds per step, one line a run; below it the daemon's share in its phases."""
    common = min(len(run.losses) for run in runs)
    head = ("optimizer", "steps", f"loss at {common}", "last loss", "held-out", "ms/step", "fwd+bwd", "optimizer", "of it daemon", "hand-off")
    rows = []
    for run in runs:
        forward, optimizer = _median_ms(run.forward_backward), _median_ms(run.optimizer)
        daemon = 1e3 * run.phases.get("step", 0.0)
        rows.append((
            NAMES[run.kind], str(len(run.losses)), f"{_smooth(run, common):.3f}",
            f"{_smooth(run, len(run.losses)):.3f}", f"{run.held_out:.3f}", f"{forward + optimizer:.1f}",
            f"{forward:.1f}", f"{optimizer:.1f}",
            f"{daemon:.1f}" if run.phases else "-",
            f"{max(0.0, optimizer - daemon):.1f}" if run.phases else "-",
        ))
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in (head, *rows)]
    for run in runs:
        if run.phases:
            phases = ", ".join(
                f"{name} {1e3 * seconds:.2f}" for name, seconds in run.phases.items() if name != "step"
            )
            lines.append(f"{NAMES[run.kind]}: the daemon's phases in ms (medians): {phases}")
    return "\n".join(lines)


def picture(runs: Sequence[Run], path: Path) -> None:
    """Loss over steps, a running mean of ten, one line a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for run in runs:
        smooth = [_smooth(run, steps) for steps in range(1, len(run.losses) + 1)]
        axes.plot(range(1, len(smooth) + 1), smooth, label=NAMES[run.kind],
                  linestyle="--" if run.kind == "torch-muon" else "-")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss (nats per byte, mean of 10 steps)")
    axes.set_title("A small GPT on the sources of Python's standard library, two DDP ranks")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
