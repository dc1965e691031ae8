"""tests/support/summary.py counts what there is, and no failure gets lost in it."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import summary

CTEST = """<testsuite tests="4">
<testcase name="good_test" classname="good_test" status="run"/>
<testcase name="dying_test" classname="dying_test" status="fail"><failure message=""/></testcase>
<testcase name="script" classname="script" status="run"/>
<testcase name="format" classname="format" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>
<system-out>SKIPPED: clang-format 14 is not installed
</system-out></testcase>
</testsuite>"""
GOOD = """<testsuites><testsuite name="A">
<testcase name="One" status="run" classname="A"/>
<testcase name="Two" status="run" classname="A"/>
<testcase name="Gpu" status="run" result="skipped" classname="A">
<skipped message="a_test.cc:5&#x0A;no CUDA device"/></testcase>
</testsuite></testsuites>"""
DYING = """<testsuites><testsuite name="B"><testcase name="One" status="run" classname="B"/></testsuite></testsuites>"""
PYTEST = """<testsuites><testsuite name="pytest">
<testcase classname="t" name="a"/><testcase classname="t" name="b"/>
<testcase classname="t" name="c"><skipped type="pytest.skip" message="no CUDA device"/></testcase>
</testsuite></testsuites>"""


def run(files: dict[str, str]) -> tuple[int, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "gtest").mkdir()
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = summary.main([folder])
    return code, out.getvalue().splitlines()


class SummaryTest(unittest.TestCase):
    def test_single_tests_are_counted_and_a_crash_behind_good_tests_is_a_failure(self) -> None:
        code, lines = run({"ctest.xml": CTEST, "gtest/good_test.xml": GOOD, "gtest/dying_test.xml": DYING,
                           "pytest.xml": PYTEST})
        self.assertEqual(lines[-1], "6 passed, 1 failed, 3 skipped")
        self.assertIn("FAILED: dying_test", lines)
        self.assertIn("skipped 2: no CUDA device", lines)
        self.assertIn("skipped 1: clang-format 14 is not installed", lines)
        self.assertEqual(code, 1)

    def test_all_good_is_success(self) -> None:
        whole = CTEST.replace('status="fail"><failure message=""/>', 'status="run">')
        code, lines = run({"ctest.xml": whole, "gtest/good_test.xml": GOOD, "pytest.xml": PYTEST})
        self.assertEqual((code, lines[-1]), (0, "6 passed, 0 failed, 3 skipped"))

    def test_a_missing_or_cut_report_is_a_failure(self) -> None:
        self.assertEqual(run({"ctest.xml": CTEST})[0], 1)
        self.assertEqual(run({"ctest.xml": CTEST[:80], "pytest.xml": PYTEST})[0], 1)
        code, lines = run({"ctest.xml": CTEST, "gtest/good_test.xml": GOOD[:60], "pytest.xml": PYTEST})
        self.assertIn("FAILED: good_test (its report is cut short)", lines)
        self.assertEqual(code, 1)

    def test_nothing_run_is_no_success(self) -> None:
        code, lines = run({"ctest.xml": "<testsuite/>", "pytest.xml": "<testsuites/>"})
        self.assertEqual((code, lines[-1]), (1, "0 passed, 0 failed, 0 skipped"))


if __name__ == "__main__":
    unittest.main()
