"""Each alert fires when a real daemon misbehaves, under a real Prometheus with the project's own rule file.

The rules' durations are scaled down (cluster.py says how), nothing else. Beside the daemons that are hurt runs one that is not:
no alert may fire on it. The dashboard's expressions are run against the same Prometheus and must return data.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import unittest

from cluster import DASHBOARD, RULES, Cluster, Daemon, Leaderless, Prometheus, eventually, train

PATIENCE = 180.0  # seconds that a loaded machine may take; an idle one needs a third


def ptrace(request: int, pid: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc.ptrace(request, pid, None, None)


PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207


def throttle(pid: int) -> None:
    """Leaves a process a twentieth of its time: a step takes many of these turns. Until killed, or the process has gone."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.04)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)


class AlertsTest(unittest.TestCase):
    cluster: Cluster

    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = cluster = Cluster()
        cls.addClassCleanup(cluster.close)
        coordinator = f"unix:{cluster.scratch}/coordinator.sock"
        cls.coordinator = cluster.start(
            os.environ["COORDINATOR_BIN"], "--listen", coordinator, log="coordinator")
        if not eventually(lambda: "coordinator.serving" in cluster.log("coordinator"), PATIENCE):
            raise AssertionError(cluster.log("coordinator"))
        cls.leaderless = Leaderless(cluster)
        muted = open("/dev/full", "wb")  # noqa: SIM115
        cls.addClassCleanup(muted.close)
        # healthy: left alone. The others: named for what happens to them.
        cls.daemons = {
            name: Daemon(cluster, name, *flags, **more)
            for name, flags, more in (
                ("healthy", ["--cpu-devices=1"], {}),
                ("stopped", [], {}),
                ("crashing", [], {}),
                ("poisoned", ["--cpu-devices=4"], {}),
                ("mute", [], {"stderr": muted}),
                ("bereft", [], {}),
                ("frozen", ["--drain-timeout-s=600"], {}),
                ("severed", [f"--coordinator={coordinator}"], {}),
                ("hanging", [], {}),
            )
        }
        cls.full_port = None
        for daemon in cls.daemons.values():
            if not eventually(daemon.ready, PATIENCE):
                raise AssertionError(cluster.log(daemon.name))
        at = {name: daemon.endpoint for name, daemon in cls.daemons.items()}
        cluster.fork_job("job-healthy", lambda: train(at["healthy"], width=128))
        cluster.fork_job("job-poisoned", lambda: train(at["poisoned"], nan_every=2, width=128))
        cluster.fork_job("job-crashing", lambda: train(at["crashing"]))
        cls.orphan = cluster.fork_job("job-bereft", lambda: train(at["bereft"]))
        cls.silent = cluster.fork_job("job-frozen", lambda: train(at["frozen"]))
        stepping = [cls.daemons[name] for name in ("healthy", "poisoned", "crashing", "bereft", "frozen")]
        if not eventually(
                lambda: all(sum(d.series("muond_steps_total")) > 5 for d in stepping), PATIENCE):
            raise AssertionError("\n".join(cluster.log(f"job-{d.name}") for d in stepping))
        # A device that the same job fills: its memory is what the job took elsewhere, and a little.
        [taken] = cls.daemons["healthy"].series("muond_device_owned_bytes")
        full = Daemon(cluster, "full", f"--cpu-memory-bytes={int(taken / 0.93)}")
        cls.daemons["full"] = full
        if not eventually(full.ready, PATIENCE):
            raise AssertionError(cluster.log("full"))
        cluster.fork_job("job-full", lambda: train(full.endpoint, width=128))
        ports = {name: daemon.port for name, daemon in cls.daemons.items()}
        ports["leaderless"] = cls.leaderless.port
        cls.prometheus = Prometheus(
            cluster, {n: p for n, p in ports.items() if n != "hanging"}, {"hanging": ports["hanging"]})
        if not eventually(cls.prometheus.serves, PATIENCE):
            raise AssertionError(cluster.log("prometheus"))

    def wait_for(self, *wanted: tuple[str, str]) -> None:
        missing = set(wanted)

        def all_fired() -> bool:
            missing.difference_update(self.prometheus.firing())
            return not missing

        self.assertTrue(eventually(all_fired, PATIENCE), f"never fired: {missing}; firing: {self.prometheus.firing()}")

    def test_1_every_alert_fires_for_its_own_misbehaviour(self) -> None:
        daemons = self.daemons
        self.assertTrue(eventually(
            lambda: len(self.prometheus.query("muond_build_info")) == len(daemons), PATIENCE))
        began = time.monotonic()

        os.kill(daemons["stopped"].stepper(), signal.SIGSTOP)
        os.kill(self.silent, signal.SIGSTOP)
        os.kill(self.orphan, signal.SIGKILL)
        os.waitpid(self.orphan, 0)
        self.coordinator.kill()
        self.leaderless.etcd.kill()
        for name in ("mute", "poisoned"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
                stranger.connect(str(daemons[name].directory / "frames.sock"))
                for _ in range(4):
                    stranger.send(b"no frame")
                    time.sleep(0.3)
        drained = self.cluster.start(
            os.environ["MUONCTL"], "drain", "--endpoint", daemons["frozen"].endpoint, "--timeout", "300", log="drain")
        loop = daemons["hanging"].stepper()
        seized = ptrace(PTRACE_SEIZE, loop) == 0  # the thread whose id is the process's: the loop
        if seized:
            self.assertEqual(ptrace(PTRACE_INTERRUPT, loop), 0)
            os.waitpid(loop, 0x40000000 | os.WUNTRACED)  # __WALL
        crashes = 0
        while crashes < 4:
            try:
                os.kill(daemons["crashing"].stepper(), signal.SIGKILL)
            except OSError:  # it has just been killed, and does not serve yet
                time.sleep(0.2)
                continue
            crashes += 1
            time.sleep(1.2)
        # By now there is a past to compare with.
        slowed = daemons["poisoned"].stepper()
        self.cluster.fork_job("throttle", lambda: throttle(slowed))

        self.wait_for(
            ("MuondDown", "stopped"),
            ("MuondRankSilent", "frozen"),
            ("MuondDraining", "frozen"),
            ("MuondJobOrphaned", "bereft"),
            ("MuondCoordinatorAway", "severed"),
            ("MuondNoLeader", ""),
            ("MuondCertificateEnds", "leaderless"),
            ("MuondFramesRefused", "poisoned"),
            ("MuondTelemetryDropped", "mute"),
            ("MuondStepsVoid", "poisoned"),
            ("MuondStepsSlower", "poisoned"),
            ("MuondPlacementImbalanced", "poisoned"),
            ("MuondStepperRestarted", "crashing"),
            ("MuondStepperCrashLoop", "crashing"),
            ("MuondDeviceMemoryHigh", "full"),
            *([("MuondLoopHangs", "hanging")] if seized else []),
        )
        print(f"{time.monotonic() - began:.1f} s until all had fired; ptrace allowed: {seized}", file=sys.stderr)
        self.assertIsNone(drained.poll())
        # The one that nobody touched; a loaded machine may well make its steps slower.
        quiet = {alert for alert, instance in self.prometheus.firing() if instance == "healthy"}
        self.assertLessEqual(quiet, {"MuondStepsSlower"})
        # What each daemon was not made to do, it is not accused of.
        self.assertNotIn(("MuondStepperRestarted", "poisoned"), self.prometheus.firing())
        self.assertNotIn(("MuondStepsVoid", "crashing"), self.prometheus.firing())

    def test_2_every_expression_of_the_dashboard_returns_data(self) -> None:
        dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
        expressions = [
            (panel["title"], target["expr"])
            for panel in dashboard["panels"]
            for target in panel.get("targets", [])
        ]
        self.assertGreater(len(expressions), 15)
        for title, expression in expressions:
            ready = expression.replace("$__rate_interval", "6s").replace("$instance", "healthy|poisoned")
            with self.subTest(title, expression=expression):
                self.assertNotIn("$", ready)
                found = self.prometheus.query(ready)
                self.assertTrue(found)
                self.assertTrue(any(sample["value"][1] != "NaN" for sample in found), found)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
                self.assertTrue(self.prometheus.query(f"count by ({label[2]}) ({label[1]})"))

    def test_3_without_any_daemon_the_absence_is_told(self) -> None:
        for daemon in self.daemons.values():
            daemon.process.kill()
        self.wait_for(("MuondAbsent", ""))

    def test_4_no_alert_was_left_out(self) -> None:
        alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8")))
        with open(__file__, encoding="utf-8") as file:
            tested = set(re.findall(r'\("(Muond\w+)", ', file.read()))
        self.assertEqual(alerts, tested)


if __name__ == "__main__":
    if any(shutil.which(program) is None for program in ("prometheus", "etcd", "openssl")):
        print("SKIPPED: prometheus, etcd or openssl is not installed (Debian packages prometheus, etcd-server, openssl)")
        sys.exit(77)
    try:
        import torch  # noqa: F401

        import muond  # noqa: F401
    except ImportError as error:
        print(f"SKIPPED: {error.name} cannot be imported")
        sys.exit(77)
    unittest.main(verbosity=2)
