#!/bin/sh
# Everything that needs a GPU, in one command: tests/gpu/run.sh [build folder, default build/cuda]
# Builds nothing. Prints what passed, failed and was skipped; fails when something failed, or when nothing ran.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/cuda}
failed=0 ran=0 skipped=0
for test in gpu_backend_test gpu_ops_test gpu_muon_test products/gpu_grouped_products_test products/gpu_newton_schulz_test; do
  log=$(mktemp)
  timeout 240 "$build/tests/gpu/$test" >"$log" 2>&1
  code=$?
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  left_out=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$log")
  echo "$test: exit $code, ${passed:-0} passed or skipped, ${left_out:-0} skipped"
  grep -h -A4 'Skipped' "$log" | grep -v -e Skipped -e '^--' -e '^\[' -e '^$' | sort | uniq -c | sed 's/^/  skipped:/'
  if [ $code -ne 0 ]; then
    grep -h -B12 -e '^\[  FAILED  \]' "$log" | head -60
    failed=$((failed + 1))
  fi
  ran=$((ran + ${passed:-0} - ${left_out:-0}))
  skipped=$((skipped + ${left_out:-0}))
  rm -f "$log"
done
if python3 -c 'import pytest, torch' 2>/dev/null; then
  MUOND_KERNELS_LIBRARY=${MUOND_KERNELS_LIBRARY:-$build/kernels/capi/libmuond_kernels.so} \
    timeout 240 python3 -m pytest -q -rs -p no:cacheprovider "$root/tests/python/test_ops.py" || failed=$((failed + 1))
  MUOND_KERNELS_LIBRARY=${MUOND_KERNELS_LIBRARY:-$build/kernels/capi/libmuond_kernels.so} \
    timeout 240 python3 "$root/tests/gpu/products/zoo.py" || failed=$((failed + 1))
  # One after the other: the pause behind a killed stepper and the device's free memory are measured.
  MUOND_LIBRARY=${MUOND_LIBRARY:-$build/client/capi/libmuond.so} MUOND_BIN=${MUOND_BIN:-$build/server/daemon/muond} \
    MUOND_KERNELS_LIBRARY=${MUOND_KERNELS_LIBRARY:-$build/kernels/capi/libmuond_kernels.so} \
    timeout 600 python3 -m pytest -q -rs -p no:cacheprovider "$root/tests/gpu/river" || failed=$((failed + 1))
else
  echo "test_ops.py, zoo.py, river: skipped, python3 has no pytest or no torch"
  skipped=$((skipped + 3))
fi
echo "gpu tests: $ran ran in C++, $skipped skipped, $failed programs failed"
[ $failed -eq 0 ] && [ $ran -gt 0 ]
