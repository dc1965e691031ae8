"""Renders the chart with the real Helm and checks manifests against the schemas of the Kubernetes API, strictly."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "muond"
TOOLS = ROOT / "build" / "tools"
sys.path.insert(0, str(TOOLS / "python"))
VERSIONS = ("1.29", "1.31", "1.32", "1.33", "1.34", "1.36", "1.37")
# Kinds of the Prometheus operator have no schema in Kubernetes: their fields, as its documentation has them.
OPERATOR_SPECS = {
    "PodMonitor": {"jobLabel", "selector", "podMetricsEndpoints"},
    "ServiceMonitor": {"jobLabel", "selector", "endpoints"},
    "PrometheusRule": {"groups"},
    # cert-manager's
    "Certificate": {"secretName", "duration", "renewBefore", "usages", "privateKey", "dnsNames", "issuerRef"},
}


def helm_binary() -> str | None:
    own = TOOLS / "helm"
    return str(own) if own.is_file() else shutil.which("helm")


def missing() -> str:
    """Why the chart cannot be tested here; empty when it can."""
    if helm_binary() is None:
        return "helm is not there (tests/support/chart_tools.py build/tools fetches it)"
    try:
        import jsonschema  # noqa: F401
        import kubernetes_validate  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not there (tests/support/chart_tools.py build/tools fetches it)"
    return ""


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm_binary() or "helm", *arguments],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "HELM_CACHE_HOME": "/nonexistent", "HELM_CONFIG_HOME": "/nonexistent"},
    )


def try_template(values: dict | Path, version: str = "1.34", which: Path = CHART) -> subprocess.CompletedProcess[str]:
    """`values`: a dict, or a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        path = values
        if not isinstance(values, Path):
            json.dump(values, file)
            file.flush()
            path = Path(file.name)
        return helm("template", "rel", str(which), "--namespace", "space", "--kube-version", version, "-f", str(path))


def documents(text: str) -> list[dict]:
    import yaml

    return [document for document in yaml.safe_load_all(text) if document]


def previous_chart(folder: Path) -> Path | None:
    """The newest chart of another version in git's history, laid out in `folder`; None without such a history."""
    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, timeout=300, check=False)
        return done.stdout if done.returncode == 0 else b""

    def version_of(text: str) -> str:
        return next((line for line in text.splitlines() if line.startswith("version:")), "")

    mine = version_of((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    for commit in git("log", "--format=%H", "--", "helm/muond/Chart.yaml").decode().split():
        theirs = version_of(git("show", f"{commit}:helm/muond/Chart.yaml").decode())
        if theirs and theirs != mine:
            archive = git("archive", commit, "helm/muond")
            subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, timeout=300, check=True)
            return folder / "helm" / "muond"
    return None


def render(values: dict | Path, version: str = "1.34") -> list[dict]:
    done = try_template(values, version)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return documents(done.stdout)


def of_kind(manifests: list[dict], kind: str, name: str = "") -> dict:
    """The one of that kind; of several, the one whose name ends so. Without a name, coordinators do not count."""
    found = [m for m in manifests if m["kind"] == kind and "helm.sh/hook" not in m["metadata"].get("annotations", {})]
    [one] = [
        m for m in found
        if (m["metadata"]["name"].endswith(name) if name else not m["metadata"]["name"].endswith("-coordinator"))
    ]
    return one


def pod_of(manifests: list[dict]) -> dict:
    """The pod's template of the release's Job or DaemonSet."""
    [owner] = [m for m in manifests if m["kind"] in ("Job", "DaemonSet")]
    return owner["spec"]["template"]


def daemon_of(manifests: list[dict]) -> dict:
    spec = pod_of(manifests)["spec"]
    [container] = [c for c in spec.get("initContainers", []) + spec["containers"] if c["name"] == "muond"]
    return container


@functools.cache
def _validator(version: str, kind: str, api: str) -> Any:
    import jsonschema
    import kubernetes_validate

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    # apps/v1 -> deployment-apps-v1, resource.k8s.io/v1 -> resource-v1, v1 -> v1
    name = "-".join([kind.lower(), *(part.split(".")[0] for part in api.split("/"))])
    schema = json.loads((folder / f"{name}.json").read_text())
    # Only the definitions that it needs: a validator that holds all of them takes a second for each.
    needed: dict[str, Any] = {}
    _collect(schema, _definitions(folder), needed)
    return jsonschema.validators.Draft202012Validator({**schema, "$defs": needed})


def _collect(node: Any, definitions: dict, needed: dict[str, Any]) -> None:
    """Turns references into ones within the document and gathers what they name."""
    if isinstance(node, list):
        for part in node:
            _collect(part, definitions, needed)
    elif isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            name = reference.rsplit("/", 1)[1]
            node["$ref"] = f"#/$defs/{name}"
            if name not in needed:
                needed[name] = definitions[name]
                _collect(needed[name], definitions, needed)
        for part in node.values():
            _collect(part, definitions, needed)


@functools.cache
def _definitions(folder: Path) -> dict:
    return json.loads((folder / "_definitions.json").read_text())["$defs"]


def errors_of(manifest: dict, version: str) -> Iterator[str]:
    """What that version's API server would refuse, or drop without a word."""
    kind, api = manifest["kind"], manifest["apiVersion"]
    where = f"{kind}/{manifest['metadata']['name']} for {version}"
    if api.startswith(("monitoring.coreos.com/", "cert-manager.io/")):
        if unknown := set(manifest["spec"]) - OPERATOR_SPECS[kind]:
            yield f"{where}: unknown {unknown}"
        return
    for error in _validator(version, kind, api).iter_errors(manifest):
        yield f"{where}: {'.'.join(map(str, error.path))}: {error.message}"
