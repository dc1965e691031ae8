"""Accuracy on a GPU, sizes up to 8192: muond.ops.newton_schulz against the float64 polynomial, torch's bf16 path beside it.

    python tests/gpu/products/zoo.py [--sizes 64x96,4096x4096] [--tables jordan,you5] [--seeds 1] [--path auto|library]

Every entry of the zoo (ten spectra, with dense random singular vectors and with vectors that have most of their mass in
few places) has to have no more error than torch's arithmetic, in Frobenius norm and in its largest element. Where all of
an error hangs on the rounding of one singular value, torch's can be small by luck: an entry that is worse than torch's is
run at seven more scales (the same problem, other roundings) and the medians decide; their number is printed.
An entry that fails there as well is counted apart when 16 bits cannot say what the result is: one rounding of bf16 moves
it by more than 1/8 (a table at the edge of its domain), or rounding noise in directions without a singular value grows
to order 1. Any other breaks the promise: exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[3]
EPS = 1e-7

JORDAN = (3.4445, -4.7750, 2.0315)
RAW = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
]


def divided(row: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    """p(x / by) as coefficients of x."""
    return row[0] / by, row[1] / by**3, row[2] / by**5


TABLES = {
    "jordan": [JORDAN] * 5,
    "you5": [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ],
    "polar_express_101": [
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.8726, -1.2307, 0.3585),
        (1.8564, -1.2132, 0.3568),
        (1.8750, -1.2500, 0.3750),
    ],
    "polar_express_102": [
        divided((8.156554524902461, -22.48329292557795, 15.878769915207462), 1.02),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ],
    "polar_express_105": [divided(row, 1.05) for row in RAW],
    "cans": [
        (8.4703, -25.1081, 18.6293),
        (4.1828, -3.1087, 0.5806),
        (3.9619, -2.9541, 0.5630),
        (3.2866, -2.4647, 0.5074),
        (2.2737, -1.6447, 0.4162),
    ],
    "deepseek_v4": [JORDAN] * 8 + [(2, -1.5, 0.5)] * 2,
}

SPECTRA: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "1/i": lambda i, n: 1 / (i + 1),
    "exponential to 1e-5": lambda i, n: 1e-5 ** (i / max(1, n - 1)),
    "a tenth large over a floor": lambda i, n: torch.where(10 * i < n, 1.0, 1e-3).double(),
    "rank deficient": lambda i, n: torch.where(2 * i < n, 1.0, 0.0).double(),
    "one outlier 1e4": lambda i, n: torch.where(i == 0, 1e4, 1.0).double(),
    "tail of 1e-10": lambda i, n: torch.where(4 * i < n, 1.0, 1e-10).double(),
    "nearly rank one": lambda i, n: torch.where(i == 0, 1.0, 1e-6).double(),
    "flat, small": lambda i, n: torch.full_like(i, 1e-4),
    "all zero": lambda i, n: torch.zeros_like(i),
}


def basis(n: int, random: torch.Generator) -> torch.Tensor:
    """A random orthogonal n x n."""
    return torch.linalg.qr(torch.randn(n, n, device="cuda", generator=random))[0].double()


def reflected(x: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Twelve random reflections on either side: singular vectors that stay near the axes."""
    for _ in range(12):
        v = torch.randn(x.shape[0], 1, device="cuda", dtype=torch.float64, generator=random)
        x = x - v @ (v.T @ x) * (2 / (v * v).sum())
        v = torch.randn(x.shape[1], 1, device="cuda", dtype=torch.float64, generator=random)
        x = x - (x @ v) @ v.T * (2 / (v * v).sum())
    return x


def undecidable(values: torch.Tensor | None, table: list[tuple[float, float, float]]) -> str:
    """Why 16 bits cannot tell the result; empty where they can."""
    if values is None:
        return ""
    x = values / max(values.norm().item(), EPS)
    places, slopes = [x], []
    for a, b, c in table:
        slopes.append(a + 3 * b * x**2 + 5 * c * x**4)
        x = a * x + b * x**3 + c * x**5
        places.append(x)
    worst, behind = places[-1].abs().max().item(), torch.ones_like(x)
    for place, slope in zip(reversed(places[:-1]), reversed(slopes), strict=True):
        behind = behind * slope
        worst = max(worst, (place * behind).abs().max().item())
    if worst > 2**6:
        return "hangs on one rounding"
    noise = 2**-9 / math.sqrt(len(values))
    if places[0].min().item() < noise and math.prod(a for a, _, _ in table) * noise > 1:
        return "noise grows to order 1"
    return ""


def exact(x: torch.Tensor, table: list[tuple[float, float, float]]) -> torch.Tensor:
    """The polynomial in float64."""
    x = x.double()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(x.norm().item(), EPS)
    for a, b, c in table:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def by_torch(x: torch.Tensor, table: list[tuple[float, float, float]]) -> torch.Tensor:
    """The operations of torch.optim.Muon, with a row of coefficients a step."""
    x = x.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPS)
    for a, b, c in table:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def distance(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Frobenius norm and largest element of the difference; not finite counts as infinite."""
    difference = (x.double() - y).nan_to_num_(nan=math.inf)
    return difference.norm().item(), difference.abs().max().item()


def load_ops() -> object:
    """muond.ops from the tree, with the kernels of the build that MUOND_KERNELS_LIBRARY or build/cuda has."""
    built = ROOT / "build" / "cuda" / "kernels" / "capi" / "libmuond_kernels.so"
    os.environ.setdefault("MUOND_KERNELS_LIBRARY", str(built))
    spec = importlib.util.spec_from_file_location("muond_ops", ROOT / "client/python/muond/ops.py")
    ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ops)
    return ops


def main() -> int:
    """Prints a line a size and table; entries that break the promise by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes",
        default="8x8,96x64,200x328,130x520,513x1000,768x2048,2048x768,1536x1536,4096x1024",
    )
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--path", choices=["auto", "library"], default="auto")
    options = parser.parse_args()
    os.environ["MUOND_CUDA_PRODUCTS"] = options.path
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    ops = load_ops()
    broken = entries = apart = by_median = 0
    for size in options.sizes.split(","):
        rows, cols = map(int, size.split("x"))
        side = min(rows, cols)
        inputs: list[tuple[str, torch.Tensor, torch.Tensor | None]] = []
        index = torch.arange(side, device="cuda", dtype=torch.float64)
        for seed in range(options.seeds):
            random = torch.Generator("cuda").manual_seed(1000 * seed + rows + cols)
            left, right = basis(rows, random)[:, :side], basis(cols, random)[:, :side]
            for name, spectrum in SPECTRA.items():
                values = spectrum(index, side)
                dense = ((left * values) @ right.T).float()
                inputs.append((f"{name}, dense", dense, values))
                diagonal = torch.zeros(rows, cols, device="cuda", dtype=torch.float64)
                diagonal.diagonal().copy_(values)
                inputs.append(
                    (f"{name}, near the axes", reflected(diagonal, random).float(), values)
                )
            gaussian = torch.randn(rows, cols, device="cuda", generator=random)
            inputs.append(("Gaussian", gaussian, None))
            del left, right, diagonal
        for table_name in options.tables.split(","):
            table, start = TABLES[table_name], time.monotonic()
            worst, worst_name = (0.0, 0.0), ["", ""]
            for name, x, values in inputs:
                entries += 1
                reference = exact(x, table)
                ours = distance(ops.newton_schulz(x, coefficients=table_name), reference)
                theirs = distance(by_torch(x, table), reference)
                ratios = tuple(
                    0.0 if o == 0 else o / t if t > 0 else math.inf
                    for o, t in zip(ours, theirs, strict=True)
                )
                worst_name = [
                    name if r > w else n for r, w, n in zip(ratios, worst, worst_name, strict=True)
                ]
                worst = tuple(max(r, w) for r, w in zip(ratios, worst, strict=True))
                if max(ratios) <= 1:
                    continue
                pairs = [(ours, theirs)]
                for scale in (1.13, 1.27, 1.39, 1.52, 1.66, 1.78, 1.91):
                    scaled = x * scale
                    reference = exact(scaled, table)
                    mine = distance(ops.newton_schulz(scaled, coefficients=table_name), reference)
                    pairs.append((mine, distance(by_torch(scaled, table), reference)))
                medians = [
                    [statistics.median(p[who][norm] for p in pairs) for norm in (0, 1)]
                    for who in (0, 1)
                ]
                why = undecidable(values, table)
                if medians[0][0] <= medians[1][0] and medians[0][1] <= medians[1][1]:
                    by_median, verdict = by_median + 1, "by its median"
                elif why:
                    apart, verdict = apart + 1, why
                else:
                    broken, verdict = broken + 1, "BROKEN"
                print(
                    f"  {verdict}: {size} {table_name} {name}: ours {ours[0]:.3g}, {ours[1]:.3g}, torch's {theirs[0]:.3g}, "
                    f"{theirs[1]:.3g}; medians {medians[0][0]:.3g}, {medians[0][1]:.3g}; {medians[1][0]:.3g}, {medians[1][1]:.3g}"
                )
            print(
                f"{size:11} {table_name:18} norm {worst[0]:.2f} ({worst_name[0]}), largest element {worst[1]:.2f} "
                f"({worst_name[1]}), {time.monotonic() - start:.1f} s",
                flush=True,
            )
    print(
        f"{entries} entries by the {options.path} path: {broken} with more error than torch's bf16, {by_median} decided by "
        f"their median over scales, {apart} that 16 bits cannot decide"
    )
    return 1 if broken or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
