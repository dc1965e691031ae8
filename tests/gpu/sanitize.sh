#!/bin/sh
# compute-sanitizer over the CUDA tests: tests/gpu/sanitize.sh [build folder, default build/cuda] [memcheck racecheck ...]
# Small subsets, since every access is watched: the product kernels over every layout, two matrices' Newton-Schulz with all its
# dependent phases in one launch; the passes and the library's products.
# Prints each summary; fails when a tool reports anything, or when nothing ran.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/cuda
[ $# -gt 0 ] && { build=$1; shift; }
[ $# -gt 0 ] || set -- memcheck racecheck
sanitizer=${SANITIZER:-compute-sanitizer}
command -v "$sanitizer" >/dev/null || { echo "SKIPPED: no compute-sanitizer"; exit 77; }
failed=0 ran=0
check() { # tool, program, filter
  log=$(mktemp)
  timeout "${LIMIT_S:-300}" "$sanitizer" --tool "$1" --error-exitcode 9 "$build/tests/gpu/$2" --gtest_filter="$3" >"$log" 2>&1
  code=$?
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  skipped=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$log")
  echo "$1 $2 $3: exit $code, ${passed:-0} passed or skipped, ${skipped:-0} skipped; $(grep 'SUMMARY' "$log" | tail -1)"
  if [ $code -ne 0 ]; then
    failed=$((failed + 1))
    grep -v '^\[' "$log" | head -20
  fi
  ran=$((ran + ${passed:-0} - ${skipped:-0}))
  rm -f "$log"
}
for tool in "$@"; do
  check "$tool" products/gpu_grouped_products_test '*AFewSmall*'
  check "$tool" products/gpu_newton_schulz_test '*TwoSmall*'
  check "$tool" gpu_ops_test 'CudaOps*'
done
echo "compute-sanitizer: $ran tests ran, $failed programs with findings"
[ $failed -eq 0 ] && [ $ran -gt 0 ]
