"""Rendered pods, run: the chart's own commands, users, volumes, probes and files, with the built programs (pod.py says what is imitated).

Usage: pod_test.py MUOND_BINARY MUONCTL_BINARY LIBRARY
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

import chart
import pod
from chart import CHART, daemon_of, documents, pod_of, render

sys.path.insert(0, str(chart.ROOT / "tests" / "integration" / "observe"))
from cluster import free_port

MUOND, MUONCTL, LIBRARY = (str(Path(path).resolve()) for path in sys.argv[1:4]) if len(sys.argv) > 3 else ("", "", "")
PROGRAMS = {
    "muond": [MUOND], "muonctl": [MUONCTL], "python3": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}
FIND_TORCH = "import importlib.util; open(importlib.util.find_spec('torch').origin).close()"  # found, not imported
USER = 10001
TRAIN = {"/scripts/train.py": CHART / "examples" / "train.py"}


@functools.cache
def user_who_may_read_the_build() -> int:
    """The chart's user; where the build or Python are root's alone, root without any capability."""
    for words in (f"exec {MUOND} --version", f'exec {sys.executable} -c "{FIND_TORCH}"'):
        # Behind a shell: setpriv's own exec still has root's reach.
        done = subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "sh", "-c", words],
            capture_output=True, check=False)
        if done.returncode != 0:
            return 0
    return USER


def environment_of(container: dict, **more: str) -> dict[str, str]:
    rendered = {entry["name"]: str(entry["value"]) for entry in container.get("env", [])}
    here = {
        "MUOND_LIBRARY": LIBRARY, "PYTHONPATH": str(chart.ROOT / "client" / "python"), "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": "/tmp",
    }
    return {**here, **rendered, **more}


class PodTest(unittest.TestCase):
    def setUp(self) -> None:
        self.node = pod.Node()
        self.addCleanup(self.node.close)
        self.user = user_who_may_read_the_build()

    def config_of(self, manifests: list[dict]) -> Path:
        text = next(m for m in manifests if "muond.yaml" in m.get("data", {}))["data"]["muond.yaml"]
        folder = self.node.scratch / "config"
        folder.mkdir(exist_ok=True)
        (folder / "muond.yaml").write_text(text, encoding="utf-8")
        return folder

    def run_daemon(self, manifests: list[dict], mounts: dict[str, Path]) -> tuple[subprocess.Popen, dict]:
        container = daemon_of(manifests)
        files = {"/etc/muond": self.config_of(manifests)}
        words = pod.words_of(container, files, PROGRAMS)
        if "/var/lib/muond" in mounts:  # below /run, where a container's mounts are made here
            (files["/etc/muond"] / "muond.yaml").write_text(
                (files["/etc/muond"] / "muond.yaml").read_text().replace("/var/lib/muond", "/run/state"))
            mounts = {**mounts, "/run/state": mounts["/var/lib/muond"]}
            del mounts["/var/lib/muond"]
        process = pod.start(
            self.node, "muond", container, mounts, words, user=self.user, network=False, environment={"PATH": os.environ["PATH"]})
        self.assertTrue(pod.wait(lambda: pod.probe(container, "startupProbe")), self.node.log("muond"))
        self.assertTrue(pod.probe(container, "livenessProbe"))
        self.assertTrue(pod.probe(container, "readinessProbe"))
        return process, container

    def end_daemon(self, process: subprocess.Popen, seconds: float) -> None:
        """As a pod's end: SIGTERM to the container's first process; it has `seconds`."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        self.assertEqual(process.wait(timeout=seconds), 0, self.node.log("muond"))

    def assert_ends(self, name: str, process: subprocess.Popen, seconds: float) -> None:
        try:
            code: int | str = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = f"running after {seconds} s"
        self.assertEqual(code, 0, f"{name}:\n{self.node.log(name)}\nmuond:\n{self.node.log('muond')}")

    def losses(self, name: str) -> list[float]:
        return [float(loss) for loss in re.findall(r"step \d+ loss ([0-9]+\.[0-9]+)", self.node.log(name))]

    def test_a_sidecar_serves_the_trainer_of_its_pod_and_ends_after_it(self) -> None:
        import yaml

        values = yaml.safe_load((CHART / "examples" / "sidecar.yaml").read_text(encoding="utf-8"))
        values["metrics"]["port"] = free_port()
        values["config"]["cpu_memory_bytes"] = "256MiB"
        manifests = render(values)
        sockets = self.node.empty_dir("job", "sockets", self.user)
        process, _ = self.run_daemon(manifests, {"/run/muond": sockets})
        [trainer] = pod_of(manifests)["spec"]["containers"]
        job = pod.start(
            self.node, "trainer", trainer, {"/run/muond": sockets}, pod.words_of(trainer, TRAIN, PROGRAMS),
            user=self.user, network=False, environment=environment_of(trainer, STEPS="20"))
        self.assert_ends("trainer", job, 250)
        losses = self.losses("trainer")
        self.assertEqual(len(losses), 4)  # two of each rank
        self.assertLess(max(losses[2:]), min(losses[:2]))
        self.assertIn("unix:/run/muond/daemon/grpc.sock", self.node.log("trainer"))
        self.end_daemon(process, pod_of(manifests)["spec"]["terminationGracePeriodSeconds"])

    def test_a_daemonset_serves_two_jobs_of_other_pods_and_drains(self) -> None:
        values = {
            "mode": "daemonset", "metrics": {"port": free_port()},
            "config": {"backend": "cpu", "cpu_devices": 2, "cpu_memory_bytes": "256MiB", "drain_timeout_s": 20},
            "user": self.user or USER, "group": self.user or USER,
        }
        manifests = render(values)
        sockets, state = self.node.host_path("/run/muond"), self.node.host_path("/var/lib/muond")
        mounts = {"/run/muond": sockets, "/var/lib/muond": state}
        self.prepare(manifests, mounts)
        if self.user == 0:  # stands in for the chart's user, so it must own what that user would
            for folder in (sockets, state):
                os.chown(folder, 0, 0)
        process, container = self.run_daemon(manifests, mounts)
        jobs = {job["metadata"]["name"]: job for job in documents((CHART / "examples" / "daemonset-jobs.yaml").read_text())}
        running = {}
        for name, job in jobs.items():
            [trainer] = job["spec"]["template"]["spec"]["containers"]
            running[name] = pod.start(
                self.node, name, trainer, {"/run/muond": sockets}, pod.words_of(trainer, TRAIN, PROGRAMS),
                user=self.user, network=True, environment=environment_of(trainer, STEPS="20"))
        for name, job in running.items():
            self.assert_ends(name, job, 250)
            losses = self.losses(name)
            self.assertLess(losses[1], losses[0])
        # helm test's second container, while the daemon runs; then the drain that an operator calls.
        [test] = [m for m in manifests if m["metadata"].get("annotations", {}).get("helm.sh/hook") == "test"]
        answers = test["spec"]["containers"][1]
        for number, words in enumerate((answers["command"], ["muonctl", "drain", "--endpoint", answers["command"][3]])):
            asked = pod.start(
                self.node, f"ask-{number}", answers, {"/run/muond": sockets}, pod.words_of({"command": words}, {}, PROGRAMS),
                user=self.user, network=True, environment={})
            self.assert_ends(f"ask-{number}", asked, 60)
        self.assertFalse(pod.probe(container, "readinessProbe"))
        self.assertTrue(pod.probe(container, "livenessProbe"))
        self.end_daemon(process, pod_of(manifests)["spec"]["terminationGracePeriodSeconds"])

    def prepare(self, manifests: list[dict], mounts: dict[str, Path]) -> None:
        """The first container of the DaemonSet, with the very capabilities that it is given; again, as after a restart."""
        [first] = pod_of(manifests)["spec"]["initContainers"]
        words = pod.words_of(first, {path: mounts[path] for path in mounts}, {"install": ["install"]})
        for attempt in range(2):
            done = pod.start(self.node, f"directories-{attempt}", first, {}, words, user=0, network=True,
                             environment={"PATH": os.environ["PATH"]})
            self.assertEqual(done.wait(timeout=200), 0, self.node.log(f"directories-{attempt}"))
            for folder in mounts.values():
                at = folder.stat()
                self.assertEqual((at.st_uid, at.st_gid, oct(at.st_mode & 0o7777)), (USER, USER, "0o700"))


if __name__ == "__main__":
    reason = chart.missing() or pod.missing()
    if not reason:
        reason = "" if importlib.util.find_spec("torch") else "torch is not installed"
    if reason:
        print(f"SKIPPED: {reason}")
        sys.exit(77)
    del sys.argv[1:4]
    unittest.main()
