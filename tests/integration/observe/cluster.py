"""Real daemons, real jobs and a real Prometheus for tests of rules and dashboards. All of it ends with the test.

Jobs are forked children of this process: torch is imported once. Nothing here starts threads before it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "helm" / "muond" / "files" / "muond.rules.yml"
DASHBOARD = ROOT / "helm" / "muond" / "files" / "muond.dashboard.json"
# The rules' durations, scaled for a test: nothing else of the file is changed.
DURATIONS = {
    "30s": "500ms", "1m": "1s", "5m": "3s", "10m": "6s", "15m": "8s", "1h": "8s",
}
# Bounds in seconds, scaled alike. Each stands in the file once.
BOUNDS = {
    "muond_rank_heartbeat_age_seconds > 300": "muond_rank_heartbeat_age_seconds > 3",
    "muond_coordinator_heartbeat_age_seconds > 30": "muond_coordinator_heartbeat_age_seconds > 3",
}


def scaled_rules() -> str:
    text = RULES.read_text(encoding="utf-8")
    for bound, short in BOUNDS.items():
        if text.count(bound) != 1:
            raise AssertionError(f"{bound!r} stands {text.count(bound)} times in {RULES}")
        text = text.replace(bound, short)
    return re.sub(
        r"((?:for|interval): |\[|offset )(\d+[smh])(?=\]|\n|\))",
        lambda match: match[1] + DURATIONS[match[2]],
        text,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


class Cluster:
    """Owns every process and the scratch directory."""

    def __init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="muond-observe-"))
        self.processes: list[subprocess.Popen] = []
        self.jobs: list[int] = []

    def close(self) -> None:
        for pid in self.jobs:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start(self, *command: str, log: str, **more: object) -> subprocess.Popen:
        out = open(self.scratch / f"{log}.log", "wb")  # noqa: SIM115
        options: dict = {"stdout": out, "stderr": out, "stdin": subprocess.DEVNULL, **more}
        process = subprocess.Popen(command, **options)
        out.close()
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.scratch / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def fork_job(self, name: str, body: Callable[[], None]) -> int:
        """Runs `body` in a child; its output goes to a log of its own."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                out = os.open(self.scratch / f"{name}.log", os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(out, 1)
                os.dup2(out, 2)
                body()
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        self.jobs.append(pid)
        return pid


class Daemon:
    """The real muond on a port of its own."""

    def __init__(self, cluster: Cluster, name: str, *flags: str, **more: object) -> None:
        self.name = name
        self.port = free_port()
        self.cluster = cluster
        self.directory = cluster.scratch / name
        self.endpoint = f"unix:{self.directory}/grpc.sock"
        self.process = cluster.start(
            os.environ["MUOND_BIN"], "--backend=cpu", f"--socket-dir={self.directory}",
            f"--metrics-listen=127.0.0.1:{self.port}", "--cpu-memory-bytes=256MiB", *flags, log=name, **more)

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()

    def ready(self) -> bool:
        try:
            return self.page("/readyz") == "ready\n"
        except OSError:
            return False

    def series(self, name: str) -> list[float]:
        return [float(line.rsplit(" ", 1)[1]) for line in self.page("/metrics").splitlines() if line.startswith(name)]

    def stepper(self) -> int:
        return json.loads(self.page("/status.json"))["stepper_pid"]


class Leaderless:
    """A coordinator around an etcd of its own, with a certificate that ends tomorrow. It leads until etcd is killed."""

    def __init__(self, cluster: Cluster) -> None:
        self.port = free_port()
        here = cluster.scratch / "leaderless"
        here.mkdir()
        # etcd makes its sockets in its working directory, named as the URLs' host and port.
        self.etcd = cluster.start(
            "etcd", "--name", "a", "--data-dir", "data", "--listen-client-urls", "unix://c:1", "--advertise-client-urls",
            "unix://c:1", "--listen-peer-urls", "unix://p:1", "--initial-advertise-peer-urls", "unix://p:1",
            "--initial-cluster", "a=unix://p:1", log="etcd", cwd=here)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-subj", "/CN=leaderless", "-keyout", here / "key.pem", "-out", here / "cert.pem"],
            capture_output=True, timeout=300, check=True)
        if not eventually((here / "c:1").exists, 60):
            raise AssertionError(cluster.log("etcd"))
        self.process = cluster.start(
            os.environ["COORDINATOR_BIN"], f"--listen=127.0.0.1:{free_port()}", f"--etcd=unix:{here}/c:1",
            f"--metrics-listen=127.0.0.1:{self.port}", f"--tls-cert={here}/cert.pem", f"--tls-key={here}/key.pem",
            f"--tls-ca={here}/cert.pem", log="leaderless")
        if not eventually(lambda: "coordinator.leads " in cluster.log("leaderless"), 60):
            raise AssertionError(cluster.log("leaderless"))


class Prometheus:
    """Debian's Prometheus over some daemons, with the project's own rules scaled."""

    def __init__(self, cluster: Cluster, targets: dict[str, int], slow: dict[str, int] | None = None) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        rules = cluster.scratch / "rules.yml"
        rules.write_text(scaled_rules(), encoding="utf-8")
        groups = [(targets, "500ms"), (slow or {}, "4s")]
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": f"muond-{interval}",
                    "scrape_interval": interval,
                    "scrape_timeout": interval,
                    "static_configs": [
                        {"targets": [f"127.0.0.1:{port}"], "labels": {"job": "muond", "instance": name}}
                        for name, port in group.items()
                    ],
                }
                for group, interval in groups
                if group
            ],
        }
        path = cluster.scratch / "prometheus.yml"
        path.write_text(json.dumps(config), encoding="utf-8")
        cluster.start(
            "prometheus", f"--config.file={path}", f"--web.listen-address={self.address}",
            f"--storage.tsdb.path={cluster.scratch / 'tsdb'}", "--log.level=warn", log="prometheus")

    def get(self, path: str, **parameters: str) -> dict:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def serves(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=60) as answer:
                return answer.status == 200
        except OSError:  # not yet: refused, or 503
            return False

    def query(self, expression: str) -> list[dict]:
        return self.get("query", query=expression)["result"]

    def firing(self) -> set[tuple[str, str]]:
        """(alert, instance) of every alert that fires now."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }


def train(
    endpoint: str, *, pause: float = 0.1, nan_every: int = 0, nan_from: int = 0, width: int = 64, job: str = "job"
) -> None:
    """A job that trains until it is killed. Two wide matrices and small ones, so that of many devices two have the work.

    Every `nan_every`-th gradient has a NaN, or every third one after step `nan_from`.
    """
    import torch

    import muond

    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(width, 8 * width), torch.nn.GELU(), torch.nn.Linear(8 * width, width), torch.nn.Linear(width, 8))
    data = torch.randn(8, width)
    opt = muond.Muon(model, lr=0.01, adamw_lr=1e-3, endpoint=endpoint, on_nonfinite="skip", verbose=False, job=job)
    step = 0
    while True:
        step += 1
        opt.zero_grad()
        model(data).square().mean().backward()
        if (nan_every and step % nan_every == 0) or (nan_from and step > nan_from and step % 3 == 0):
            model[0].weight.grad[0, 0] = float("nan")
        opt.step()
        time.sleep(pause)
