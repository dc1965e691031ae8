"""Console entry points: the binaries that the package carries."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def _run(name: str) -> None:
    program = Path(__file__).parent / "bin" / name
    if not program.is_file():
        sys.exit(f"{program} is not there: this package was not installed with its binaries")
    os.execv(program, [name, *sys.argv[1:]])


def muond() -> None:
    """The daemon."""
    _run("muond")


def muond_coordinator() -> None:
    """The coordinator."""
    _run("muond-coordinator")


def muonctl() -> None:
    """The command line."""
    _run("muonctl")
