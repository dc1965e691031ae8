"""Runs the containers of a rendered pod, as far as that goes without a kubelet.

Each container gets PID, IPC, mount and (between pods) network namespaces of its own, a read-only root, the rendered user,
no capabilities, and the pod's socket volume at the rendered path; its command, arguments, environment and probes are the rendered ones.
Not imitated: cgroups and their limits, seccomp, image file systems (programs come from the build), DRA and device plugins.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path


def missing() -> str:
    """Why pods cannot be imitated here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    for tool in ("unshare", "setpriv", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian package util-linux)"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--ipc", "--net", "mount", "-t", "tmpfs", "none", "/run"],
        capture_output=True, text=True, timeout=300, check=False)
    return "" if done.returncode == 0 else f"namespaces are not allowed here: {done.stderr.strip()}"


class Node:
    """What pods share: host paths and, by name, the content of ConfigMaps."""

    def __init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="muond-node-"))
        self.scratch.chmod(0o755)
        self.running: list[subprocess.Popen] = []

    def close(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def host_path(self, path: str) -> Path:
        """As the kubelet makes one for DirectoryOrCreate: root's, mode 0755."""
        at = self.scratch / "host" / path.lstrip("/").replace("/", "-")
        at.mkdir(parents=True, exist_ok=True, mode=0o755)
        return at

    def empty_dir(self, pod: str, name: str, group: int) -> Path:
        """As the kubelet makes one with fsGroup: everybody may write, and new entries belong to the group."""
        at = self.scratch / "pods" / pod / name
        if not at.is_dir():
            at.mkdir(parents=True)
            os.chown(at, 0, group)
            at.chmod(0o2777)
        return at

    def log(self, name: str) -> str:
        return (self.scratch / f"{name}.log").read_text(encoding="utf-8", errors="replace")


def words_of(container: dict, files: dict[str, Path], programs: dict[str, list[str]]) -> list[str]:
    """Command and arguments, with programs of the image and mounted files where they are here."""
    words = container["command"] + container.get("args", [])
    words = programs.get(words[0], [words[0]]) + words[1:]
    for mounted, here in files.items():
        words = [word.replace(mounted, str(here)) for word in words]
    return words


def start(
    node: Node, name: str, container: dict, mounts: dict[str, Path], words: list[str], *, user: int, network: bool,
    environment: dict[str, str],
) -> subprocess.Popen:
    """`mounts`: path below /run -> directory here. `user` 0 without capabilities stands in where the build is root's alone."""
    added = [capability.lower() for capability in container["securityContext"]["capabilities"].get("add", [])]
    allowed = ",".join(["-all", *("+" + capability for capability in added)])
    script = ["set -e", "mount -t proc proc /proc", "mount -t tmpfs none /run"]
    for path, here in mounts.items():
        script += [f"mkdir -p {path}", f"mount --bind {here} {path}"]
    script.append('exec "$@"')
    out = open(node.scratch / f"{name}.log", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--ipc", *(["--net"] if network else []),
         "sh", "-c", "\n".join(script), "sh",
         "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", f"--bounding-set={allowed}",
         f"--inh-caps={allowed}", "--no-new-privs", *words],
        stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
    out.close()
    node.running.append(process)
    return process


def probe(container: dict, kind: str) -> bool:
    """An httpGet probe, once, in the network namespace of this process."""
    get = container[kind]["httpGet"]
    [port] = [p["containerPort"] for p in container["ports"] if p["name"] == get["port"]]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{get['path']}", timeout=30) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
