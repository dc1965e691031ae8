#!/bin/sh
# Builds the programs and lays out /out: bin/ (programs), lib/ (their libraries), python/ (the client's package).
# Usage: build.sh ON|OFF   with or without CUDA, from the root of the sources
set -eu
out=${OUT:-/out}
cmake --preset release -DMUOND_CUDA="$1" -DMUOND_TESTS=OFF -DMUOND_BENCHMARKS=OFF
ninja -C build/release all muond_python_package   # an install wants every program to be there
cmake --install build/release --prefix "$out" --strip
cmake --install build/release --prefix "$out/python" --component python --strip
cp client/python/muond/*.py "$out/python/muond/"
sh deploy/docker/libraries.sh "$out/lib" "$out"/bin/*
