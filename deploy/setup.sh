#!/usr/bin/env bash
# Everything that both commands of README.md need, once: Debian packages, Python packages, the build.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/setup.sh [--tests] [--help]

Prepares this checkout on Debian 12 or Ubuntu 24.04. Called by deploy/try.sh and tests/run.sh; safe to repeat.
  1. apt packages (as root, or through sudo): compiler, gRPC, abseil, OpenBLAS, ... about 1 minute, 700 MB
  2. Python: the first of $MUOND_PYTHON, python3, build/venv that imports torch >= 2.9 is used. Otherwise
     build/venv is made and torch installed into it: about 3 minutes, 6 GB. Smaller packages that
     are missing (numpy, matplotlib, pytest, ruff) go into build/venv too, never into your Python.
  3. cmake --preset release and ninja: 2 to 8 minutes the first time, seconds after that
What is done already is skipped. It writes under build/ only, and build/env.sh for those who want to go on by hand.

  --tests   build the tests and benchmarks too; fetch Helm and the Kubernetes schemas into build/tools (180 MB)

Environment: MUOND_PYTHON (interpreter to prefer), MUOND_JOBS (compiler processes; default by cores and memory).
TEXT
}

tests=0
for argument in "$@"; do
  case "$argument" in
    --tests) tests=1 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup.sh: unknown argument '$argument'" >&2; usage >&2; exit 2 ;;
  esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
mkdir -p build
began=$SECONDS
say() { printf '[setup %3ds] %s\n' "$((SECONDS - began))" "$*"; }

# --- 1. Debian packages ---------------------------------------------------------------------------------------------
packages=(
  build-essential cmake ninja-build ccache git ca-certificates pkg-config python3 python3-venv python3-dev
  libabsl-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  prometheus-cpp-dev libyaml-cpp-dev libsqlite3-dev libopenblas-dev
  libcpp-httplib-dev nlohmann-json3-dev libucx-dev libgtest-dev libgmock-dev libbenchmark-dev
)
((tests)) && packages+=(prometheus procps iproute2 ucx-utils etcd-server openssl)

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

install_packages() {
  command -v apt-get >/dev/null || {
    echo "setup.sh: this system has no apt-get; install the equivalents of: ${packages[*]}" >&2
    exit 1
  }
  local missing as_root=()
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "Debian packages: all ${#packages[@]} are there"
    return
  fi
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
      echo "setup.sh: needs root or sudo to install: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  say "Debian packages, about 1 minute: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  # A service that comes with a package is not started: the tests start what they need themselves.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >build/apt.log 2>&1 || {
    tail -n 20 build/apt.log >&2
    echo "setup.sh: apt-get install failed; the whole log is build/apt.log" >&2
    exit 1
  }
}

# --- 2. Python ------------------------------------------------------------------------------------------------------
has_torch() {
  "$1" -c 'import torch, sys
version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
sys.exit(version < (2, 9))' >/dev/null 2>&1
}
has_all() { "$1" -c 'import numpy, matplotlib, pytest, torch' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in "${MUOND_PYTHON:-}" "$(command -v python3 || true)" build/venv/bin/python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && has_torch "$candidate"; then
      echo "$candidate"
      return
    fi
  done
}

prepare_python() {
  python=$(find_python)
  if [ -n "$python" ] && has_all "$python"; then
    python=$(command -v "$python")
    say "Python: $python has torch and the rest"
    return
  fi
  local parent=${python:-} wanted=(numpy matplotlib pytest ruff)
  local base=${parent:-${MUOND_PYTHON:-python3}}
  # The interpreter that pyenv and the like put first may lack venv; Debian's own has it.
  "$base" -c 'import venv, ensurepip' 2>/dev/null || base=/usr/bin/python3
  if [ -z "$parent" ]; then
    wanted+=(torch)
    say "Python: no importable torch >= 2.9 was found; installing torch into build/venv, about 3 minutes, 6 GB"
  else
    say "Python: torch of $parent is used; ${wanted[*]} go into build/venv, under a minute"
  fi
  [ -x build/venv/bin/python ] || "$base" -m venv build/venv
  if [ -n "$parent" ] && [ "$parent" != build/venv/bin/python ]; then
    # The parent's packages are seen behind build/venv's own, also when the parent is a venv itself.
    "$parent" -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("-packages")))' \
      >"$(build/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
  fi
  build/venv/bin/python -m pip install --quiet --disable-pip-version-check "${wanted[@]}" || {
    echo "setup.sh: pip could not install ${wanted[*]} into build/venv; see the lines above" >&2
    exit 1
  }
  python=$root/build/venv/bin/python
}

# --- 3. The build ---------------------------------------------------------------------------------------------------
build_jobs() {
  local cores memory_gib jobs
  cores=$(nproc)
  memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  jobs=$((memory_gib < 2 * cores ? memory_gib / 2 : cores))  # a gRPC source takes up to 2 GiB
  echo "${MUOND_JOBS:-$((jobs < 1 ? 1 : jobs))}"
}

build() {
  local jobs targets=()
  jobs=$(build_jobs)
  [ -d /usr/local/cuda/bin ] && PATH=$PATH:/usr/local/cuda/bin
  say "build: cmake --preset release, ninja -j$jobs; 2 to 8 minutes the first time (log: build/build.log)"
  cmake --preset release -DPython3_EXECUTABLE="$python" >build/build.log 2>&1 || {
    tail -n 30 build/build.log >&2
    exit 1
  }
  grep -- '-- muond ' build/build.log || true
  if ! ((tests)); then
    targets=(muond muonctl muond_capi)
  fi
  ninja -C build/release -j"$jobs" "${targets[@]}" >>build/build.log 2>&1 || {
    grep -A 12 -m 3 -E '^FAILED|error:' build/build.log >&2 || tail -n 30 build/build.log >&2
    echo "setup.sh: the build failed; the whole log is build/build.log" >&2
    exit 1
  }
}

# The stamp says which packages and which Python were found good: a second run asks neither dpkg nor pip.
stamp=build/setup.stamp
wanted_stamp() {
  printf '%s\n' "${packages[@]}" "${MUOND_PYTHON:-}" "$(command -v python3 || true)" "$(sha256sum deploy/setup.sh)" |
    sha256sum | cut -c1-16
}
python=$(sed -n 's/^python=//p' "$stamp" 2>/dev/null || true)
if grep -qs "^stamp=$(wanted_stamp)\$" "$stamp" && [ -x "$python" ]; then
  say "Debian and Python packages: done before (rm $stamp to look again)"
else
  install_packages
  prepare_python
  printf 'stamp=%s\npython=%s\n' "$(wanted_stamp)" "$python" >"$stamp"
fi
if ((tests)) && ! "$python" tests/support/chart_tools.py build/tools; then
  say "Helm or the Kubernetes schemas could not be fetched: the tests of the chart will be skipped"
fi
build
cat >build/env.sh <<TEXT
# Written by deploy/setup.sh: source it to use this checkout's build by hand.
export MUOND_PYTHON='$python'
export MUOND_BIN='$root/build/release/server/daemon/muond'
export MUOND_LIBRARY='$root/build/release/client/capi/libmuond.so'
export PATH='$root/build/release/client/ctl:$root/build/release/server/coordinator:$root/build/release/server/daemon':"\$PATH"
export PYTHONPATH='$root/client/python'"\${PYTHONPATH:+:\$PYTHONPATH}"
export PYTHONDONTWRITEBYTECODE=1
TEXT
say "ready"
