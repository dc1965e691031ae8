#!/bin/sh
# What the compiler made of the CUDA code, without a GPU: tests/gpu/sass.sh [libmuond_kernels.so, default of build/cuda]
# Compiles hopper_products.cu and fails unless every kernel multiplies by HGMMA in all four widths and three operand layouts,
# nothing spills, no stack is used, and ptxas serialised no wgmma. Where the library is built: fails unless it carries machine
# code for sm_80, sm_90, sm_90a, sm_100 and sm_120 and PTX for the rest. Exit 77 (skipped) without nvcc or cuobjdump.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
cuobjdump=${CUOBJDUMP:-$(command -v cuobjdump || ls /usr/local/cuda/bin/cuobjdump 2>/dev/null)}
for python in python3 "$root/build/venv/bin/python"; do  # Triton brings one
  [ -n "$cuobjdump" ] && break
  cuobjdump=$("$python" -c 'import os, triton; print(os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump"))' 2>/dev/null)
done
[ -x "$nvcc" ] || { echo "SKIPPED: no nvcc"; exit 77; }
[ -x "$cuobjdump" ] || { echo "SKIPPED: no cuobjdump (set CUOBJDUMP)"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nvcc" -std=c++20 -I"$root" -gencode=arch=compute_90a,code=sm_90a -Xptxas -v -cubin \
  -o "$work/products.cubin" "$root/kernels/ops/cuda/hopper_products.cu" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$cuobjdump" -sass "$work/products.cubin" >"$work/sass" || exit 1
failed=0
fail() { echo "FAILED: $*"; failed=1; }
grep -qi 'serializ' "$work/build.log" && fail "ptxas serialised wgmma: $(grep -i serializ "$work/build.log" | head -3)"
grep -E '[1-9][0-9]* bytes (stack frame|spill)' "$work/build.log" && fail "stack or spills"
kernels=$(grep -c 'Function : ' "$work/sass")
[ "$kernels" -eq 2 ] || fail "$kernels kernels, expected fp16 and bf16"
awk -v n=0 '/Function : /{n++} {print > ("'"$work"'/kernel" n)}' "$work/sass"
for i in $(seq 1 "$kernels"); do
  name=$(sed -n 's/.*Function : //p' "$work/kernel$i")
  for width in 64 128 192 256; do
    found=$(grep -o "HGMMA\.64x${width}x16[^ ]*.*" "$work/kernel$i" | grep -c .)
    # Four k-steps a block; the layouts: both K-major, B MN-major (one transposed), both MN-major.
    [ "$found" -ge 12 ] || fail "$name: $found HGMMA of width $width, expected at least 12"
  done
  turned=$(grep 'HGMMA' "$work/kernel$i" | grep -c 'tnspA.*tnspB\|tnspB.*tnspA')
  single=$(grep 'HGMMA' "$work/kernel$i" | grep 'tnspB' | grep -vc 'tnspA')
  plain=$(grep 'HGMMA' "$work/kernel$i" | grep -vc 'tnsp')
  [ "$turned" -ge 16 ] && [ "$single" -ge 16 ] && [ "$plain" -ge 16 ] || fail "$name: layouts $plain plain, $single with B turned, $turned with both"
  other=$(grep -c '[^G]HMMA\|LDL\|STL' "$work/kernel$i")
  [ "$other" -eq 0 ] || fail "$name: $other HMMA or local-memory instructions"
  echo "$name: $(grep -c HGMMA "$work/kernel$i") HGMMA ($plain plain, $single B turned, $turned both turned), $(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' "$work/build.log" | sed -n "${i}p") registers, no spills"
done
echo "ptxas: $(grep -ci serializ "$work/build.log") serialisation remarks"
library=${1:-$root/build/cuda/kernels/capi/libmuond_kernels.so}
if [ -e "$library" ]; then
  codes=$("$cuobjdump" --list-elf "$library" | grep -o 'sm_[0-9a-z]*' | sort -u | tr '\n' ' ')
  ptx=$("$cuobjdump" --list-ptx "$library" | grep -o 'sm_[0-9a-z]*' | sort -u | tr '\n' ' ')
  for code in sm_80 sm_90 sm_90a sm_100 sm_120; do
    case " $codes" in *" $code "*) ;; *) fail "$library has no code for $code" ;; esac
  done
  [ -n "$ptx" ] || fail "$library has no PTX"
  echo "$library: code for ${codes}and PTX of $ptx"
fi
exit $failed
