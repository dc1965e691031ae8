"""A .cu file of kernels/ops/cuda as C++ for tests/support/cuda/simt.h.   usage: rewrite.py IN.cu OUT.cc"""

import re
import sys
from pathlib import Path

LAUNCH = re.compile(
    r"(\w+Kernel(?:<[^<>]*>)?)\s*<<<(.+?),\s*(\w+),\s*0,\s*stream>>>\((.*?)\);", re.DOTALL
)
PARAMETER = re.compile(r"const __grid_constant__ (\w+<kBytes>) (\w+)")
NAN = re.compile(r'asm\("max\.NaN\.f32.*?\);', re.DOTALL)
RELEASE = re.compile(r'asm volatile\("st\.release\..*?\);', re.DOTALL)


def main() -> None:
    """Fails when something is left that only nvcc knows."""
    source, target = map(Path, sys.argv[1:])
    text = source.read_text()
    text = PARAMETER.sub(r"const \1& \2", text)
    text = LAUNCH.sub(r"muond::simt::Launch(\2, \3, [&] { \1(\4); });", text)
    text = text.replace("return cudaGetLastError();", "return cudaSuccess;")
    text = NAN.sub("larger = a != a ? a : b != b ? b : a > b ? a : b;", text)
    text = RELEASE.sub("*word = value;", text)
    left = re.search(r"<<<|\basm\b|__grid_constant__", text)
    if left:
        sys.exit(f"{source}: '{left[0]}' is not understood")
    target.write_text(f'#include "tests/support/cuda/simt.h"\n{text}')


if __name__ == "__main__":
    main()
