"""The scripts say what they do, and refuse what they do not know, before they change anything."""

from __future__ import annotations

import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("deploy/setup.sh", "deploy/try.sh", "tests/run.sh")


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


class ScriptsTest(unittest.TestCase):
    def test_help_tells_what_happens_and_how_long_it_takes(self) -> None:
        for script in SCRIPTS:
            with self.subTest(script):
                done = call(f"./{script}", "--help")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(f"Usage: {script}", done.stdout)
                self.assertRegex(done.stdout, r"\d+ minute")

    def test_an_unknown_argument_is_refused_by_name(self) -> None:
        for script in ("deploy/setup.sh", "tests/run.sh"):
            with self.subTest(script):
                done = call(f"./{script}", "--nonsense")
                self.assertEqual(done.returncode, 2)
                self.assertIn("--nonsense", done.stderr)

    def test_every_shell_script_parses(self) -> None:
        scripts = [*ROOT.glob("deploy/**/*.sh"), *ROOT.glob("tests/**/*.sh"), ROOT / ".ci" / "run"]
        self.assertGreaterEqual(len(scripts), 4)
        for script in scripts:
            with self.subTest(str(script)):
                self.assertEqual(call("bash", "-n", str(script)).stderr, "")

    def test_continuous_integration_runs_the_command_of_the_readme(self) -> None:
        self.assertIn("exec ./tests/run.sh\n", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
        self.assertIn("./tests/run.sh", (ROOT / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
