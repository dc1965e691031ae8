"""Newton-Schulz on a GPU, one command: our kernels, their floor, cuBLAS and PyTorch on the same lists, alternating.

    python benchmarks/kernels/newton_schulz.py [--bench BINARY] [--divide N] [--compiled] [--out FOLDER] [LIST.csv ...]

Without lists: those of benchmarks/data. For every list it runs newton_schulz_bench (floor at the sustained rate of the
same run, shapes one by one) and then torch_peers.py's columns in this process. Prints two tables in Markdown and writes,
under --out, newton_schulz.json and newton_schulz.svg (share of the floor per shape).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import torch
import torch_peers

ROOT = Path(__file__).resolve().parents[2]


def run_bench(binary: str, path: str, divide: int, table: str) -> dict:
    """newton_schulz_bench of one list: its JSON."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [
            binary,
            "--per-shape",
            "--divide",
            str(divide),
            "--table",
            table,
            "--json",
            file.name,
            path,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return json.loads(Path(file.name).read_text())


def summary(lists: list[dict]) -> str:
    """A Markdown table, a line a list."""
    lines = [
        "| list | matrices | ms | floor ms at Ps | share | cuBLAS dense | torch.optim.Muon's | batched | Gram | compiled | over the best peer | workspace MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in lists:
        whole, peers = entry["whole"], entry["peers"]
        best = min([whole["cublas_ms"] or float("inf"), *peers.values()])
        cells = [f"{peers[name]:.1f}" if name in peers else "" for name in torch_peers.COLUMNS]
        lines.append(
            f"| {entry['list']} | {whole['matrices']} | {whole['ms']:.2f} | {whole['floor_ms']:.2f} at {entry['ps'] / 1e12:.0f} "
            f"| {100 * whole['floor_ms'] / whole['ms']:.1f} % | {whole['cublas_ms']:.1f} | {' | '.join(cells)} "
            f"| {best / whole['ms']:.2f} | {whole['workspace_bytes'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


def shapes(lists: list[dict]) -> str:
    """A Markdown table, a line a shape."""
    lines = ["| list | shape | count | ms | share | cuBLAS dense ms |", "|---|---|---|---|---|---|"]
    for entry in lists:
        for shape in entry["shapes"]:
            lines.append(
                f"| {entry['list']} | {shape['name']} {shape['rows']}x{shape['cols']} | {shape['matrices']} | {shape['ms']:.3f} "
                f"| {100 * shape['floor_ms'] / shape['ms']:.1f} % | {shape['cublas_ms']:.3f} |"
            )
    return "\n".join(lines)


def picture(lists: list[dict], device: str) -> str:
    """An SVG: share of the floor of every list as a whole (dark) and of its shapes alone (light)."""
    bars = []
    for entry in lists:
        rows = [(entry["list"].removesuffix(".csv"), entry["whole"], True)]
        rows += [
            (f"{s['name']} {s['rows']}x{s['cols']}, {s['matrices']}", s, False)
            for s in entry["shapes"]
        ]
        bars += [*rows, None]
    height, left, scale = 16, 300, 5.0
    total = 60 + height * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + 620}" height="{total}" font-family="sans-serif" font-size="11">',
        f'<rect width="{left + 620}" height="{total}" fill="white"/>',
        f'<text x="10" y="18" font-size="13">Newton-Schulz, share of the symmetric floor at the sustained rate of the same run, {escape(device)}</text>',
    ]
    for percent in range(0, 101, 20):
        x = left + percent * scale
        parts.append(f'<line x1="{x}" y1="30" x2="{x}" y2="{total - 20}" stroke="#ccc"/>')
        parts.append(f'<text x="{x}" y="{total - 6}" text-anchor="middle">{percent} %</text>')
    for i, bar in enumerate(bars):
        if bar is None:
            continue
        label, result, whole = bar
        share, y = 100 * result["floor_ms"] / result["ms"], 34 + i * height
        parts.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end"{" font-weight=" + chr(34) + "bold" + chr(34) if whole else ""}>{escape(label)}</text>'
        )
        parts.append(
            f'<rect x="{left}" y="{y + 1}" width="{share * scale:.1f}" height="{height - 3}" fill="{"#1f4e79" if whole else "#9dc3e6"}"/>'
        )
        parts.append(
            f'<text x="{left + share * scale + 4:.1f}" y="{y + 11}">{share:.1f}, {result["ms"]:.2f} ms</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lists", nargs="*")
    parser.add_argument(
        "--bench", default=str(ROOT / "build/cuda/benchmarks/kernels/newton_schulz_bench")
    )
    parser.add_argument("--divide", type=int, default=1)
    parser.add_argument(
        "--table", default="jordan", help="of ours and the floor; the peers run jordan"
    )
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile as well: half a minute a list"
    )
    parser.add_argument("--budget-ms", type=float, default=60)
    parser.add_argument("--out", default=".")
    options = parser.parse_args()
    lists = options.lists or sorted(map(str, (ROOT / "benchmarks/data").glob("*.csv")))
    device, results = torch.cuda.get_device_name(), []
    for path in lists:
        ours = run_bench(options.bench, path, options.divide, options.table)
        if not ours["lists"]:
            print(f"{path} names no matrices", file=sys.stderr)
            continue
        whole, *alone = ours["lists"]
        peers = torch_peers.measure(path, whole["divide"], options.budget_ms, options.compiled)
        results.append(
            {
                "list": whole["list"],
                "ps": ours["ps"],
                "ps_end": ours["ps_end"],
                "whole": whole,
                "shapes": alone,
                "peers": peers,
            }
        )
        print(
            f"{whole['list']}: {whole['ms']:.2f} ms, {100 * whole['floor_ms'] / whole['ms']:.1f} % of the floor; peers "
            + ", ".join(f"{name} {ms:.1f}" for name, ms in peers.items()),
            file=sys.stderr,
            flush=True,
        )
    print(
        f"{device}, torch {torch.__version__}, table {options.table}\n\n{summary(results)}\n\n{shapes(results)}"
    )
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "newton_schulz.json").write_text(
        json.dumps({"device": device, "lists": results}, indent=1) + "\n"
    )
    (out / "newton_schulz.svg").write_text(picture(results, device))
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
