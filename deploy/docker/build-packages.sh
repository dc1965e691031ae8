#!/bin/sh
# What the build needs on Debian 12 or Ubuntu 24.04, without tests.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends \
  build-essential cmake ninja-build pkg-config \
  libabsl-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc \
  prometheus-cpp-dev libyaml-cpp-dev libsqlite3-dev libopenblas-dev libcpp-httplib-dev nlohmann-json3-dev \
  libucx-dev
rm -rf /var/lib/apt/lists/*
