"""Where the library and the daemon under test are, and daemons for tests.

MUOND_LIBRARY and MUOND_BIN name them; without them the newest build tree is used, or what is installed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))


def _newest(pattern: str) -> str | None:
    found = sorted(ROOT.glob(pattern), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else None


def _find_build() -> None:
    library = os.environ.get("MUOND_LIBRARY") or _newest("build/*/client/capi/libmuond.so")
    if library is None:
        return  # an installed package brings its own
    os.environ["MUOND_LIBRARY"] = library
    tree = Path(library).resolve().parents[2]
    program = next(
        (p for p in (tree / "bin/muond", tree / "server/daemon/muond") if p.is_file()), tree
    )
    if "MUOND_BIN" not in os.environ and program.is_file():
        os.environ["MUOND_BIN"] = str(program)
    kernels = tree / "kernels/capi/libmuond_kernels.so"
    if "MUOND_KERNELS_LIBRARY" not in os.environ and kernels.is_file():
        os.environ["MUOND_KERNELS_LIBRARY"] = str(kernels)
    package = str(ROOT / "client/python")
    sys.path.insert(0, package)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package, str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )


_find_build()
for name in ("MUOND_ENDPOINT", "MUOND_FAIL_POINT"):
    os.environ.pop(name, None)

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20250)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint behind which there is no daemon: p -= lr * g, so that the optimizer's own part is seen alone."""
    import muond.optimizer
    from muond._session import Session

    monkeypatch.setattr(
        muond.optimizer, "Session", lambda manifest, endpoint, **_: Session(manifest, None)
    )
    return "echo"


@pytest.fixture(scope="session")
def shared_daemon():
    """One daemon for the tests that do not hurt it; three CPU devices, so that ownership spreads."""
    from muond._session import Daemon

    daemon = Daemon(arguments=["--cpu-devices", "3"])
    yield daemon.endpoint
    daemon.stop()
