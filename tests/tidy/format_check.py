#!/usr/bin/env python3
"""clang-format 14 over C++ and CUDA, ruff over Python. Ends with 77 (skipped) when neither tool can judge.

Usage: format_check.py {cpp|python} [--fix]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tidy import Tree

SKIPPED = 77
CLANG_FORMAT = 14  # other versions lay the same code out differently


def skip(reason: str) -> int:
    print(f"SKIPPED: {reason}")
    return SKIPPED


def check_cpp(tree: Tree, fix: bool) -> int:
    tool = shutil.which(f"clang-format-{CLANG_FORMAT}") or shutil.which("clang-format")
    if tool is None:
        return skip(f"clang-format {CLANG_FORMAT} is not installed")
    text = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)", text)
    if version is None or int(version[1]) != CLANG_FORMAT:
        return skip(f"clang-format {CLANG_FORMAT} is not installed; {text.strip()} lays code out differently")
    files = [str(tree.root / p) for p in tree.paths if p.suffix in (".h", ".cc", ".cu", ".cuh")]
    mode = ["-i"] if fix else ["--dry-run", "--Werror"]
    done = subprocess.run([tool, *mode, "--style=file", *files], capture_output=True, text=True, check=False)
    bad = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", done.stderr, re.MULTILINE)))
    print("\n".join(f"{name}: not as clang-format lays it out" for name in bad) or f"{len(files)} files")
    return done.returncode


def check_python(tree: Tree, fix: bool) -> int:
    tool = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if tool is None:
        return skip("ruff is not installed")
    return subprocess.run(
        [tool, "check", "--no-cache", *(["--fix"] if fix else []), str(tree.root)], check=False
    ).returncode


def main(arguments: list[str]) -> int:
    checks = {"cpp": check_cpp, "python": check_python}
    if not arguments or arguments[0] not in checks:
        print(__doc__)
        return 2
    return checks[arguments[0]](Tree(Path(__file__).resolve().parents[2]), "--fix" in arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
