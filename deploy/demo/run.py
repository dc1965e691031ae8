#!/usr/bin/env python3
"""Trains one small GPT three times: muond.Muon, torch.optim.AdamW, torch.optim.Muon + AdamW; prints a table."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from report import picture, table
from torch import multiprocessing
from worker import KINDS, Options, Run, train

ROOT = Path(__file__).resolve().parents[2]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deploy/demo/run.py", description=__doc__)
    parser.add_argument("--steps", type=int, default=Options.steps, help="optimizer steps a run (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="at most, a run (%(default)s)")
    parser.add_argument("--ranks", type=int, default=Options.ranks, help="DDP processes (default %(default)s)")
    parser.add_argument("--batch", type=int, default=Options.batch, help="sequences a rank and step (%(default)s)")
    parser.add_argument("--lr", type=float, default=Options.lr, help="peak learning rate of all runs (%(default)s)")
    parser.add_argument("--only", choices=KINDS, action="append", help="only this run; may be repeated")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo", help="folder of loss.png, runs.json")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.ranks < 1 or options.batch < 1:
        parser.error("--steps, --ranks and --batch must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    runs = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="muond-demo-") as folder:
        options = Options(
            steps=chosen.steps, seconds=chosen.seconds, ranks=chosen.ranks, batch=chosen.batch, lr=chosen.lr,
            folder=folder,
        )
        kinds = chosen.only or KINDS
        print(f"{len(kinds)} runs of {options.steps} steps, {options.ranks} ranks each: {', '.join(kinds)}", flush=True)
        for kind in kinds:
            multiprocessing.start_processes(
                train, args=(kind, options), nprocs=options.ranks, start_method="spawn"
            )
            runs.append(Run(**json.loads(Path(folder, f"{kind}.json").read_text(encoding="utf-8"))))
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "runs.json").write_text(json.dumps([vars(run) for run in runs]), encoding="utf-8")
    picture(runs, chosen.output / "loss.png")
    print(f"\n{table(runs)}\n\nloss curves: {chosen.output / 'loss.png'}   ({time.perf_counter() - began:.0f} s)")
    unequal = [run.kind for run in runs if not run.replicas_equal]
    if unequal:
        print(f"the ranks hold different weights after: {', '.join(unequal)}", file=sys.stderr)
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
