"""The units: systemd takes them, and they call the programs with options that the programs have.

Usage: systemd_test.py MUOND_BINARY COORDINATOR_BINARY
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
CONFIG = UNITS.parent / "config" / "muond.yaml"
NAMES = ("muond", "muond-coordinator")
PROGRAMS = {name: str(Path(path).resolve()) for name, path in zip(NAMES, sys.argv[1:3], strict=False)}


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def read(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNITS / f"{name}.service")
    return unit


class UnitsTest(unittest.TestCase):
    def test_systemd_takes_every_unit(self) -> None:
        self.assertEqual({path.stem for path in UNITS.glob("*.service")}, set(PROGRAMS))
        for name, program in PROGRAMS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as scratch:
                text = (UNITS / f"{name}.service").read_text(encoding="utf-8")
                self.assertIn(f"ExecStart=/usr/local/bin/{name} ", text)
                # The built program in the place of the installed one: verify wants it to be there.
                unit = Path(scratch, f"{name}.service")
                unit.write_text(text.replace(f"/usr/local/bin/{name}", program), encoding="utf-8")
                done = call("systemd-analyze", "verify", "--man=no", str(unit))
                self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_wrong_unit_is_seen(self) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            unit = Path(scratch, "wrong.service")
            unit.write_text("[Service]\nExecStart=/bin/true\nRestrt=always\n", encoding="utf-8")
            self.assertIn("Restrt", call("systemd-analyze", "verify", "--man=no", str(unit)).stderr)

    def test_programs_take_the_options_of_their_units(self) -> None:
        for name, program in PROGRAMS.items():
            with tempfile.TemporaryDirectory() as scratch:
                line = read(name)["Service"]["ExecStart"]
                words = line.replace("/etc/muond/muond.yaml", str(CONFIG))
                words = words.replace(f"/var/lib/{name}", scratch).replace(f"/run/{name}", scratch).split()
                done = call(program, *words[1:], "--check-config")
                self.assertEqual(done.returncode, 0, done.stderr)
                done = call(program, *words[1:], "--nonsense=1", "--check-config")
                self.assertEqual(done.returncode, 2)

    def test_the_directories_of_the_unit_are_those_of_its_configuration(self) -> None:
        service, config = read("muond")["Service"], CONFIG.read_text(encoding="utf-8")
        self.assertIn(f"socket_dir: /run/{service['RuntimeDirectory']} ", config)
        self.assertIn(f"state_dir: /var/lib/{service['StateDirectory']} ", config)

    def test_the_unit_waits_longer_than_the_daemon_drains(self) -> None:
        drain = re.search(r"^drain_timeout_s: (\d+)", CONFIG.read_text(encoding="utf-8"), re.MULTILINE)
        assert drain
        self.assertGreater(int(read("muond")["Service"]["TimeoutStopSec"]), int(drain[1]))


if __name__ == "__main__":
    if shutil.which("systemd-analyze") is None:
        print("SKIPPED: systemd-analyze is not installed (Debian package systemd)")
        sys.exit(77)
    del sys.argv[1:3]
    unittest.main()
