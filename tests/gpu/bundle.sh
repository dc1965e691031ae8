#!/bin/sh
# A bundle of a build for another machine: tests/gpu/bundle.sh OUT.tar.gz [build folder, default build/cuda]
# Holds the binaries, the client library, the Python package, these tests, and every shared library that is not the C or C++
# runtime's; CUDA's driver is the other machine's. There: unpack, `. muond-bundle/env.sh`, and `muond`, `muonctl`, `import muond` work.
set -eu
archive=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${2:-$root/build/cuda}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/muond-bundle
mkdir -p "$out/bin" "$out/lib" "$out/python" "$out/tests" "$out/benchmarks"
strip -o "$out/bin/muond" "$build/server/daemon/muond"
strip -o "$out/bin/muonctl" "$build/client/ctl/muonctl"
strip --strip-unneeded -o "$out/lib/libmuond.so" "$build/client/capi/libmuond.so"
strip --strip-unneeded -o "$out/lib/libmuond_kernels.so" "$build/kernels/capi/libmuond_kernels.so"
for file in "$out/bin/muond" "$out/bin/muonctl" "$out/lib/libmuond.so" "$out/lib/libmuond_kernels.so"; do ldd "$file"; done |
  awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -v -E '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64)\.so' |
  while read -r library; do
    strip --strip-unneeded -o "$out/lib/$(basename "$library")" "$(readlink -f "$library")"
  done
cp -r "$root/client/python/muond" "$out/python/"
cp -r "$root/tests/gpu" "$root/tests/python" "$out/tests/"
[ ! -d "$root/benchmarks/end_to_end" ] || cp -r "$root/benchmarks/end_to_end" "$out/benchmarks/"
find "$out" -name __pycache__ -type d -prune -exec rm -rf {} +
cat >"$out/env.sh" <<'END'
# Source this: the bundle's programs and package come first.
MUOND_BUNDLE=$(cd "$(dirname "${BASH_SOURCE:-$0}")" && pwd)
export PATH="$MUOND_BUNDLE/bin:$PATH" MUOND_BIN="$MUOND_BUNDLE/bin/muond" MUOND_LIBRARY="$MUOND_BUNDLE/lib/libmuond.so"
export MUOND_KERNELS_LIBRARY="$MUOND_BUNDLE/lib/libmuond_kernels.so"
export LD_LIBRARY_PATH="$MUOND_BUNDLE/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PYTHONPATH="$MUOND_BUNDLE/python${PYTHONPATH:+:$PYTHONPATH}"
END
mkdir -p "$(dirname "$archive")"
tar -C "$work" -czf "$archive" muond-bundle
du -sh "$out" "$archive"
