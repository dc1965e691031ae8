"""The images and the compose file, by everything short of building and running them.

Usage: images_test.py MUOND_BINARY MUONCTL_BINARY COORDINATOR_BINARY LIBRARY
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import chart

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
BINARIES = sys.argv[1:5] if __name__ == "__main__" else []


def call(*command: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)  # type: ignore[call-overload]


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continuation lines joined, comments dropped."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        elif name:
            found[name].append((word, rest))
    return found


class DockerfileTest(unittest.TestCase):
    def test_what_is_copied_from_the_sources_is_there_and_not_ignored(self) -> None:
        ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
        for word, rest in instructions():
            if word == "COPY" and not rest.startswith("--from"):
                source = rest.split()[0]
                self.assertTrue((ROOT / source).exists(), source)
                self.assertNotIn(source.split("/")[0], ignored)
        for needed in ("CMakePresets.json", "client/python/muond", "deploy/docker/build.sh"):
            self.assertTrue((ROOT / needed).exists())
            self.assertNotIn(needed.split("/")[0], ignored)

    def test_every_image_ends_as_a_user_without_rights(self) -> None:
        for name, steps in stages().items():
            if name.startswith("build"):
                continue
            users = [rest for word, rest in steps if word == "USER"]
            self.assertEqual(users[-1], "10001:10001", name)

    def test_bases_are_pinned_to_releases(self) -> None:
        arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
        for word, rest in instructions():
            if word != "FROM":
                continue
            image = rest.split(" AS ")[0]
            for name, value in arguments.items():
                image = image.replace("${" + name + "}", value)
            if image in stages():
                continue
            self.assertRegex(image, r"^[a-z/]+:[a-z0-9.-]+$")
            self.assertNotIn("latest", image)

    def test_the_runtime_has_every_library_that_the_programs_need(self) -> None:
        """On the distribution of the image: its packages, and what they bring, are those that the programs link to."""
        release = Path("/etc/os-release").read_text(encoding="utf-8")
        if "VERSION_CODENAME=bookworm" not in release:
            print("not Debian 12: packages have other names here", file=sys.stderr)
            return
        run = next(rest for word, rest in stages()["muond"] if word == "RUN")
        wanted = set(re.findall(r"\blib[a-z0-9.+-]+\b", run.split("&& rm")[0].split("recommends")[1]))
        self.assertGreaterEqual(len(wanted), 6)
        depends = {
            name: set(re.findall(r"(?:^|[,|] *)([a-z0-9.+-]+)", text))
            for name, _, text in (
                line.partition("\t")
                for line in call("dpkg-query", "-W", "-f", "${Package}\t${Depends}\n").stdout.splitlines()
            )
        }
        brought, queue = set(wanted), list(wanted)
        while queue:
            new = depends.get(queue.pop(), set()) - brought
            brought |= new
            queue += new
        linked = call("ldd", *BINARIES).stdout
        self.assertNotIn("not found", linked)
        paths = {path for path in re.findall(r"=> (/\S+)", linked) if not path.startswith(str(ROOT))}
        # A library is registered under one of its names.
        names = {path: {path, f"/usr{path}", str(Path(path).resolve())} for path in paths}
        listed = call("dpkg", "-S", *sorted(set().union(*names.values()))).stdout
        owners = {path: package.split(":")[0] for package, path in re.findall(r"^(\S+): (/\S+)$", listed, re.MULTILINE)}
        for path, candidates in names.items():
            found = {owners[name] for name in candidates & set(owners)}
            self.assertTrue(found & brought, f"{path} comes from {found}, which the image does not install")

    def test_the_libraries_of_the_other_image_travel_with_it(self) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            done = call("sh", str(DOCKER / "libraries.sh"), scratch, *BINARIES[:3])
            self.assertEqual(done.returncode, 0, done.stderr)
            copied = {path.name for path in Path(scratch).iterdir()}
            self.assertTrue(any(name.startswith("libgrpc++") for name in copied), copied)
            self.assertFalse({name for name in copied if re.match(r"libc\.so|libcuda\.so|ld-linux|libcublas", name)})
            done = call(BINARIES[0], "--version", env={"LD_LIBRARY_PATH": scratch})
            self.assertEqual(done.returncode, 0, done.stderr)


class ComposeTest(unittest.TestCase):
    def setUp(self) -> None:
        if reason := chart.missing():
            raise AssertionError(reason)
        import yaml

        self.compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))

    def test_the_daemon_takes_its_options_and_its_check_exists(self) -> None:
        service = self.compose["services"]["muond"]
        done = call(BINARIES[0], *service["command"][1:], "--check-config")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = call(BINARIES[1], *service["healthcheck"]["test"][2:])
        self.assertEqual(done.returncode, 3, done.stderr)  # a right command line; nobody answers here
        drain = next(o for o in service["command"] if o.startswith("--drain-timeout-s")).split("=")[1]
        self.assertGreater(int(service["stop_grace_period"].rstrip("s")), int(drain))

    def test_what_is_mounted_is_there(self) -> None:
        for name, service in self.compose["services"].items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DOCKER / source).is_file(), f"{name}: {source}")
                else:
                    self.assertIn(source, self.compose["volumes"])
            target = service.get("build", {}).get("target")
            if target:
                self.assertIn(target, stages())
                self.assertEqual((DOCKER / service["build"]["context"]).resolve(), ROOT)

    def test_nothing_is_published_beyond_this_machine(self) -> None:
        for service in self.compose["services"].values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_prometheus_scrapes_the_daemons_port_with_the_rules(self) -> None:
        port = next(o for o in self.compose["services"]["muond"]["command"] if "metrics-listen" in o).rsplit(":", 1)[1]
        self.assertIn(f'"muond:{port}"', (DOCKER / "prometheus.yml").read_text(encoding="utf-8"))
        if shutil.which("promtool"):
            with tempfile.TemporaryDirectory() as scratch:
                for volume in self.compose["services"]["prometheus"]["volumes"][:2]:
                    source, target, _ = volume.split(":")
                    shutil.copy(DOCKER / source, Path(scratch, Path(target).name))
                done = call("promtool", "check", "config", f"{scratch}/prometheus.yml")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    if reason := chart.missing():
        print(f"SKIPPED: {reason}")
        sys.exit(77)
    del sys.argv[1:5]
    unittest.main()
