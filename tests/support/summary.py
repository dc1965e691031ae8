#!/usr/bin/env python3
"""Sums up the reports of tests/run.sh: `N passed, N failed, N skipped`, with the reasons of the skips.

Usage: summary.py REPORTS     reads REPORTS/ctest.xml, REPORTS/gtest/*.xml, REPORTS/pytest.xml
A ctest entry that is a GoogleTest binary counts with its single tests; any other entry counts once. A binary that
ctest calls failed though its own report shows no failure (a crash, a time-out) is one failed test.
Ends with 0 when nothing failed and something passed.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Sum:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: Sum) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped


def reason_of(case: ElementTree.Element) -> str:
    """The first line that says why, wherever the tool put it."""
    output = case.findtext("system-out") or ""
    said = re.search(r"^SKIPPED: (.+)$", output, re.MULTILINE)
    if said:
        return said[1].strip()
    element = case.find("skipped")
    text = (element.get("message") or element.text or "") if element is not None else ""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not re.match(r"\S+:\d+$", line) and line != "Skipped"]
    return lines[0] if lines else "no reason given"


def read_cases(path: Path) -> Sum:
    found = Sum()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            found.failed.append(name)
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            found.skipped[reason_of(case)] += 1
        else:
            found.passed += 1
    return found


def read_ctest(path: Path, gtest: Path) -> Sum:
    found = Sum()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "?")
        failed = case.find("failure") is not None or case.get("status") == "fail"
        reports = [gtest / f"{name}.xml"] if (gtest / f"{name}.xml").exists() else []
        inside = Sum()
        for report in reports:
            try:
                inside.add(read_cases(report))
            except ElementTree.ParseError:
                inside.failed.append(f"{name} (its report is cut short)")
        if failed and not inside.failed:
            inside.failed.append(name)
        elif not reports and case.find("skipped") is not None:
            inside.skipped[reason_of(case)] += 1
        elif not reports and not failed:
            inside.passed += 1
        found.add(inside)
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    reports = Path(arguments[0])
    total = Sum()
    for name in ("ctest.xml", "pytest.xml"):
        path = reports / name
        try:
            total.add(read_ctest(path, reports / "gtest") if name == "ctest.xml" else read_cases(path))
        except (OSError, ElementTree.ParseError) as error:
            total.failed.append(f"no report {name}: {error}")
    for name in total.failed:
        print(f"FAILED: {name}")
    for reason, count in sorted(total.skipped.items()):
        print(f"skipped {count}: {reason}")
    print(f"{total.passed} passed, {len(total.failed)} failed, {sum(total.skipped.values())} skipped")
    return 0 if total.passed > 0 and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
