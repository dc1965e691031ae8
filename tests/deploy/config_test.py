"""The example configurations are ones that the daemon and Prometheus take.

Usage: config_test.py MUOND_BINARY COORDINATOR_BINARY
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUOND = sys.argv.pop(1) if __name__ == "__main__" and len(sys.argv) > 1 else "muond"
COORDINATOR = sys.argv.pop(1) if __name__ == "__main__" and len(sys.argv) > 1 else "muond-coordinator"


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


class ConfigTest(unittest.TestCase):
    def test_the_daemon_takes_every_example(self) -> None:
        examples = sorted((ROOT / "deploy" / "config").glob("muond*.yaml"))
        self.assertGreaterEqual(len(examples), 2)
        for example in examples:
            with self.subTest(example.name):
                done = call(MUOND, "--config", str(example), "--check-config")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_coordinator_takes_every_example(self) -> None:
        examples = sorted((ROOT / "deploy" / "config").glob("coordinator*.yaml"))
        self.assertEqual(len(examples), 2)
        for example in examples:
            with self.subTest(example.name), tempfile.TemporaryDirectory() as scratch:
                text = example.read_text(encoding="utf-8")
                # The folders of the example, here; in them a certificate of this test's own.
                for folder in set(re.findall(r" (/(?:etc|var)/[\w/-]+)/[\w.-]+$", text, re.MULTILINE)):
                    here = Path(scratch, folder[1:])
                    here.mkdir(parents=True)
                    text = text.replace(f" {folder}/", f" {here}/")
                    if "muond-coordinator" not in folder:
                        made = call("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                                    "-nodes", "-days", "1", "-subj", "/CN=example", "-keyout", str(here / "tls.key"),
                                    "-out", str(here / "tls.crt"))
                        self.assertEqual(made.returncode, 0, made.stderr)
                        shutil.copy(here / "tls.crt", here / "ca.crt")
                file = Path(scratch, "coordinator.yaml")
                file.write_text(text, encoding="utf-8")
                done = call(COORDINATOR, "--config", str(file), "--check-config")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual("etcd" in text, example.name == "coordinator.yaml")

    def test_the_daemon_refuses_a_key_that_it_does_not_know(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write("backnd: cpu\n")
            file.flush()
            done = call(MUOND, "--config", file.name, "--check-config")
        self.assertEqual(done.returncode, 2)
        self.assertIn("backnd", done.stdout + done.stderr)
        self.assertIn("backend", done.stdout + done.stderr)

class PrometheusTest(unittest.TestCase):
    def test_promtool_takes_the_scrape_configuration(self) -> None:
        done = call("promtool", "check", "config", str(ROOT / "deploy" / "prometheus" / "prometheus.yml"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_each_alert_is_silent_before_its_time_and_fires_after_it(self) -> None:
        rules = (ROOT / "helm" / "muond" / "files" / "muond.rules.yml").read_text(encoding="utf-8")
        tests = ROOT / "tests" / "deploy" / "muond.rules.test.yml"
        done = call("promtool", "test", "rules", str(tests))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        text = tests.read_text(encoding="utf-8")
        for alert in re.findall(r"- alert: (\w+)", rules):
            self.assertIn(f"alertname: {alert}, exp_alerts: []", text)
            self.assertIn(f"alertname: {alert}\n        exp_alerts:\n          - exp_labels", text)
        for record in re.findall(r"- record: (\S+)", rules):
            if record not in rules.split("muond.alerts")[1]:  # those that alerts use are tested by them
                self.assertIn(record, text)

    def test_the_operations_page_explains_every_alert_and_no_other(self) -> None:
        rules = (ROOT / "helm" / "muond" / "files" / "muond.rules.yml").read_text(encoding="utf-8")
        page = (ROOT / "deploy" / "OPERATIONS.md").read_text(encoding="utf-8")
        self.assertEqual(re.findall(r"^### (Muond\w+)$", page, re.MULTILINE), re.findall(r"- alert: (\w+)", rules))

    def test_the_scraped_port_is_the_one_of_the_example(self) -> None:
        scrape = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        config = (ROOT / "deploy" / "config" / "muond.yaml").read_text(encoding="utf-8")
        address = re.search(r"^metrics_listen: (\S+)", config, re.MULTILINE)
        assert address
        self.assertIn(f'"{address[1]}"', scrape)


if __name__ == "__main__":
    if shutil.which("promtool") is None:
        print("SKIPPED: promtool is not installed (Debian package prometheus)")
        sys.exit(77)
    unittest.main()
