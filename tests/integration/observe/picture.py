"""Draws the dashboard from its own queries: real daemons and jobs under a real Prometheus, no Grafana.

    python tests/integration/observe/picture.py OUT.png [SECONDS]

Two daemons train; after a third of the time one stepper is killed, and gradients with NaN begin. Needs the environment
that the alerts' test gets (MUOND_BIN, MUOND_LIBRARY, PYTHONPATH).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from cluster import DASHBOARD, Cluster, Daemon, Prometheus, eventually, train

WINDOW = "10s"
UNITS = {"s": (1e3, "ms"), "bytes": (2**-20, "MiB"), "Bps": (2**-20, "MiB/s"), "percentunit": (100, "%")}


def label_of(target: dict, labels: dict) -> str:
    text = target["legendFormat"]
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def curves(prometheus: Prometheus, target: dict, begin: float, end: float) -> list[tuple[str, list, list]]:
    expression = target["expr"].replace("$__rate_interval", WINDOW).replace("$instance", ".*")
    found = prometheus.get("query_range", query=expression, start=str(begin), end=str(end), step="1")["result"]
    return [
        (label_of(target, series["metric"]),
         [point[0] - begin for point in series["values"]], [float(point[1]) for point in series["values"]])
        for series in found
    ]


def draw_stat(axes, panel: dict, found: list) -> None:
    factor, unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"], (1, ""))
    value = found[0][2][-1] * factor
    axes.text(0.5, 0.42, f"{value:.3g} {unit}", ha="center", va="center", fontsize=17, color="#1a7f4b")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_heatmap(axes, found: list) -> None:
    import numpy as np

    found = sorted((float(name), seconds, values) for name, seconds, values in found if name != "+Inf")
    times = sorted({second for _, seconds, _ in found for second in seconds})
    cumulative = np.zeros((len(found), len(times)))
    for row, (_, seconds, values) in enumerate(found):
        cumulative[row, [times.index(second) for second in seconds]] = values
    counts = np.diff(cumulative, axis=0, prepend=0).clip(min=0)
    axes.imshow(counts, aspect="auto", origin="lower", cmap="Greens", extent=(times[0], times[-1], -0.5, len(found) - 0.5))
    axes.set_yticks(range(0, len(found), 3), [f"{found[row][0] * 1e3:g} ms" for row in range(0, len(found), 3)])


def draw_series(axes, panel: dict, found: list) -> None:
    factor, unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"], (1, panel["fieldConfig"]["defaults"]["unit"]))
    for name, seconds, values in found:
        axes.plot(seconds, [value * factor for value in values], linewidth=1.2, label=name)
    axes.set_ylabel("" if unit == "short" else unit, fontsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=6, loc="upper left", framealpha=0.6)


def draw(prometheus: Prometheus, begin: float, end: float, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    panels = [panel for panel in panels if panel["type"] != "table"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(14, rows * 0.36))
    grid = figure.add_gridspec(rows, 24, hspace=4.2, wspace=5)
    for panel in panels:
        at = panel["gridPos"]
        axes = figure.add_subplot(grid[at["y"] : at["y"] + at["h"] - 1, at["x"] : at["x"] + at["w"] - 1])
        axes.set_title(panel["title"], fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        found = [curve for target in panel["targets"] for curve in curves(prometheus, target, begin, end)]
        if panel["type"] == "stat":
            draw_stat(axes, panel, found)
        elif panel["type"] == "heatmap":
            draw_heatmap(axes, found)
        else:
            draw_series(axes, panel, found)
    figure.savefig(out, dpi=75, bbox_inches="tight")


def main(out: Path, seconds: float) -> None:
    cluster = Cluster()
    try:
        daemons = [Daemon(cluster, name, "--cpu-devices=2") for name in ("node-1", "node-2")]
        for daemon in daemons:
            if not eventually(daemon.ready, 60):
                raise SystemExit(cluster.log(daemon.name))
        first, second = daemons
        cluster.fork_job("first", lambda: train(first.endpoint, width=96))
        cluster.fork_job("second", lambda: train(second.endpoint, width=64, nan_from=int(seconds)))
        prometheus = Prometheus(cluster, {daemon.name: daemon.port for daemon in daemons})
        trained = "muond_steps_total{result=\"applied\"} > 3"
        if not eventually(lambda: prometheus.serves() and len(prometheus.query(trained)) == 2, 60):
            raise SystemExit(cluster.log("first"))
        begin = time.time()
        time.sleep(seconds / 3)
        os.kill(first.stepper(), signal.SIGKILL)
        time.sleep(seconds * 2 / 3)
        draw(prometheus, begin, time.time(), out)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
