#!/usr/bin/env bash
# Every test of the project. The last line sums them up.
set -uo pipefail

usage() {
  cat <<'TEXT'
Usage: tests/run.sh [--help] [-R REGEX]

Sets up what is missing (deploy/setup.sh --help says what and for how long), builds, and runs every test: C++ and shell
tests through ctest (unit, property, simulation, integration, fuzz, tidy, deploy, GPU where a device is) and
the Python tests through pytest. About 10 minutes on two cores once built. Reports lie in build/reports.
The last line is  N passed, N failed, N skipped ; above it stands why tests were skipped. Ends with 0 when none failed.

  -R REGEX   only ctest tests and pytest tests (-k) that match
TEXT
}

only=
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    -R) only=${2:?"-R needs a pattern"}; shift ;;
    *) echo "run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
began=$SECONDS
stages=()
stage() {  # stage NAME COMMAND...: runs it, keeps its time
  local name=$1 start=$SECONDS result
  shift
  printf '\n=== %s\n' "$name"
  "$@"
  result=$?
  stages+=("$(printf '%4d s  %s' "$((SECONDS - start))" "$name")")
  return $result
}

stage "set-up and build" ./deploy/setup.sh --tests || exit 1
# shellcheck source=/dev/null
. build/env.sh
reports=$root/build/reports
rm -rf "$reports"
mkdir -p "$reports/gtest"

run_ctest() {
  GTEST_OUTPUT="xml:$reports/gtest/" ctest --test-dir build/release --output-junit "$reports/ctest.xml" \
    --output-on-failure --no-tests=ignore --timeout 600 -j "$(nproc)" ${only:+-R "$only"}
}
run_pytest() {
  "$MUOND_PYTHON" -m pytest tests/python -q -ra -p no:cacheprovider --junitxml "$reports/pytest.xml" ${only:+-k "$only"}
}
stage "C++, shell and tidy tests" run_ctest
stage "Python tests" run_pytest

printf '\n=== time\n'
printf '%s\n' "${stages[@]}"
printf '%4d s  all\n\n' "$((SECONDS - began))"
exec "$MUOND_PYTHON" tests/support/summary.py "$reports"
