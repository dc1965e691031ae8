"""Where the library and the daemon under test are (as tests/python/conftest.py); everything here needs a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(Path(__file__).parent))


def _find_build() -> None:
    if "MUOND_LIBRARY" not in os.environ:
        built = ROOT / "build/cuda"
        os.environ["MUOND_LIBRARY"] = str(built / "client/capi/libmuond.so")
        os.environ["MUOND_BIN"] = str(built / "server/daemon/muond")
        kernels = built / "kernels/capi/libmuond_kernels.so"
        os.environ.setdefault("MUOND_KERNELS_LIBRARY", str(kernels))
    package = ROOT / "client/python"
    paths = [str(package)] if package.is_dir() else []
    sys.path[:0] = paths
    paths.append(str(Path(__file__).parent))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")]))


_find_build()
for name in ("MUOND_ENDPOINT", "MUOND_FAIL_POINT"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        import torch

        reason = None if torch.cuda.is_available() else "torch sees no GPU"
    except ImportError:
        reason = "python has no torch"
    if reason is None and not Path(os.environ["MUOND_LIBRARY"]).is_file():
        reason = f"no build at {os.environ['MUOND_LIBRARY']} (cmake --preset cuda)"
    if reason is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def two_gpus() -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, there is {torch.cuda.device_count()}")
