#!/usr/bin/env python3
"""Checks the house rules of the source tree: layers, rooms, sizes, headers, READMEs, leftovers.

Usage: tidy.py [ROOT]     prints one line per violation, ends with 1 when there is any.
Only the standard library is used. What each rule is for stands in README.md beside this file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

LINES_MAX = 600
TOP_LEVEL = ("proto", "server", "client", "kernels", "deploy", "helm", "tests", "benchmarks")
CPP = {".h", ".cc", ".cpp", ".cu", ".cuh", ".c"}
TEXT = CPP | {".py", ".proto", ".md", ".txt", ".cmake", ".sh", ".yaml", ".yml", ".toml", ".json", ".cfg"}
GENERATED = ("LICENSE", "benchmarks/data/", "benchmarks/results/")

# A folder and what it may include of the project, longest prefix first. Its own folder is always allowed.
RIVER = ("kernels", "proto/types", "proto/wire", "server/observe")  # observe lies below every room of server/
LAYERS: dict[str, tuple[str, ...]] = {
    "kernels/runtime": (),
    "kernels/ops": ("kernels/runtime",),
    "kernels/optim": ("kernels/runtime", "kernels/ops"),
    "kernels": ("kernels",),
    "proto/types": ("kernels",),
    "proto/wire": ("kernels", "proto/types"),
    "proto/carrier": ("kernels", "proto/types", "proto/wire"),
    "proto": ("kernels", "proto"),
    "client": ("kernels", "proto", "client"),
    "server/keeper": ("proto/wire", "proto/carrier", "proto/types", "server/observe"),
    "server/coordinator": ("proto", "server/observe"),
    "server/session": ("proto", "kernels", "server/observe"),
    "server/gather": RIVER,
    "server/schedule": RIVER,
    "server/execute": RIVER,
    "server/state": RIVER,
    "server/scatter": RIVER,
    "server/peer": RIVER,
    "server/observe": ("proto/stubs",),  # the options of TLS
    "server/daemon": ("kernels", "proto", "server"),
}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
CUDA = re.compile(r"^(cuda|cublas|cusolver|curand|nvrtc|nvtx|nvToolsExt|cooperative_groups|cute/|cutlass/)")
UCX = re.compile(r"^uc[pst]/")
GRPC = re.compile(r"^(grpc|grpcpp|google/protobuf)/|\.pb\.h$")
DOOR = re.compile(r"^proto/stubs/|(_service|convert(_\w+)?|/main)\.cc$")
TORCH = re.compile(r"^(torch|ATen|c10)/")
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
ABSOLUTE = re.compile(r"(?<![\w.$}/-])/(work|home|root|Users)/\w")

Rule = Callable[["Tree"], Iterator[str]]


class Tree:
    """The files of a tree: those that git tracks, or everything where there is no git."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if (root / ".git").exists():
            listed = subprocess.run(
                ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard"],
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()
            paths = [Path(name) for name in listed]
        else:
            skip = {"build", "__pycache__"}
            paths = []
            for folder, folders, names in os.walk(root):
                folders[:] = sorted(f for f in folders if f not in skip and not f.startswith("."))
                paths += [(Path(folder) / name).relative_to(root) for name in names]
        self.paths = sorted(p for p in set(paths) if (root / p).is_file())

    def read(self, path: Path) -> str:
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def texts(self, suffixes: set[str]) -> Iterator[tuple[Path, str]]:
        for path in self.paths:
            named = path.suffix in suffixes or (suffixes is TEXT and path.name == "CMakeLists.txt")
            if named and not path.as_posix().startswith(GENERATED):
                yield path, self.read(path)

    def includes(self) -> Iterator[tuple[Path, bool, str]]:
        """(file, whether the include is quoted, what it names), comments left aside."""
        for path, text in self.texts(CPP):
            for match in INCLUDE.finditer(text):
                yield path, match[1] == '"', match[2]


def within(name: str, folders: tuple[str, ...]) -> bool:
    return any(name == folder or name.startswith(folder + "/") for folder in folders)


def layers(tree: Tree) -> Iterator[str]:
    """Includes point downwards; the rooms of the river never include each other, nor client and server."""
    ordered = sorted(LAYERS, key=len, reverse=True)
    for path, quoted, name in tree.includes():
        own = next((folder for folder in ordered if within(path.as_posix(), (folder,))), None)
        if not quoted or own is None or not within(name, TOP_LEVEL):
            continue
        if not within(name, (own, *LAYERS[own])):
            allowed = ", ".join(LAYERS[own]) or "nothing else of the project"
            yield f'{path}: includes "{name}", but {own} may include {allowed}'
    for path in tree.paths:
        known = within(path.as_posix(), tuple(LAYERS)) or len(path.parts) < 3
        if path.parts[0] == "server" and path.suffix in CPP and not known:
            yield f"{path}: this room has no line in LAYERS of tests/tidy/tidy.py"


def foreign_headers(tree: Tree) -> Iterator[str]:
    """CUDA, UCX, NCCL, gRPC and protobuf, torch: each only where it belongs."""
    for path, _, name in tree.includes():
        place = path.as_posix()
        if place.startswith(("tests/", "benchmarks/")):
            continue
        if CUDA.match(name) and "cuda" not in path.parts[:-1]:
            yield f"{path}: includes {name}; CUDA headers stay under */cuda/"
        if UCX.match(name) and not place.startswith("proto/carrier/ucx/"):
            yield f"{path}: includes {name}; UCX stays in proto/carrier/ucx"
        if name == "nccl.h" and not place.startswith("proto/carrier/nccl/"):
            yield f"{path}: includes {name}; NCCL stays in proto/carrier/nccl"
        if TORCH.match(name):
            yield f"{path}: includes {name}; torch stays in Python"
        if GRPC.search(name) and not DOOR.search(place):
            yield f"{path}: includes {name}; gRPC stays in proto/stubs, *_service.cc, *convert*.cc, main.cc"


def sizes(tree: Tree) -> Iterator[str]:
    """A file that passes 600 lines is two files."""
    for path, text in tree.texts(TEXT):
        lines = text.count("\n")
        if lines > LINES_MAX:
            yield f"{path}: {lines} lines, at most {LINES_MAX}"


def readmes(tree: Tree) -> Iterator[str]:
    """Each room says what it is."""
    rooms = set()
    for path in tree.paths:
        if path.parts[0] in TOP_LEVEL and len(path.parts) > 1:
            rooms.add(Path(path.parts[0]))
            if len(path.parts) > 2 and path.parts[:2] != ("proto", "muond"):
                rooms.add(Path(*path.parts[:2]))
    documents = set(tree.paths)
    for room in sorted(rooms):
        if room / "README.md" not in documents and not within(room.as_posix(), GENERATED_ROOMS):
            yield f"{room}: has no README.md"


GENERATED_ROOMS = ("benchmarks/data", "benchmarks/results")


def leftovers(tree: Tree) -> Iterator[str]:
    """Nothing is left for later, and no path of one machine is in the tree."""
    for path, text in tree.texts(TEXT):
        if path.parts[:2] == ("tests", "tidy"):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if LEFTOVER.search(line):
                yield f"{path}:{number}: {LEFTOVER.search(line)[0]} left behind"
            if ABSOLUTE.search(line):
                yield f"{path}:{number}: a path of one machine"


def guards(tree: Tree) -> Iterator[str]:
    """A header's first line behind its comment is #pragma once."""
    for path, text in tree.texts({".h", ".cuh"}):
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).splitlines()
        first = next((line for line in code if line.strip() and not line.startswith("//")), "")
        if first.strip() != "#pragma once":
            yield f"{path}: starts with {first.strip()!r}, not #pragma once"


RULES: tuple[Rule, ...] = (layers, foreign_headers, sizes, readmes, leftovers, guards)


def main(arguments: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[2]
    tree = Tree(root)
    if not tree.paths:
        print(f"{root}: no file found")
        return 1
    found = [violation for rule in RULES for violation in rule(tree)]
    print("\n".join(found) if found else f"{len(tree.paths)} files, {len(RULES)} rules, no violation")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
