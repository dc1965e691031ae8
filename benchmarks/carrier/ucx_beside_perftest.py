"""The UCX carrier beside ucx_perftest, in turns, over TCP on this machine's loopback.

    python benchmarks/carrier/ucx_beside_perftest.py build/release [--rounds N] [--shards N] [--frames N]

Each round runs ucx_perftest's active-message bandwidth (64 MiB) and latency (64 bytes), then ours. Prints every round, then medians,
spread and the two ratios. Needs ucx_perftest (Debian: ucx-utils) and a machine that is otherwise idle.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHARD = 64 << 20


def perftest(test: str, size: int, count: int, warm: int, port: int) -> list[str]:
    """The last line of figures of ucx_perftest between two processes."""
    environment = os.environ | {"UCX_TLS": "tcp,self"}
    server = subprocess.Popen(
        ["ucx_perftest", "-p", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        command = ["ucx_perftest", "127.0.0.1", "-p", str(port), "-t", test]
        command += ["-s", str(size), "-n", str(count), "-w", str(warm), "-f"]
        for _ in range(50):  # until the server listens
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=300
            )
            if done.returncode == 0:
                return done.stdout.strip().splitlines()[-1].split()
            time.sleep(0.1)
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    finally:
        server.kill()
        server.wait()


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--frames", type=int, default=20000)
    parser.add_argument("--port", type=int, default=23471)
    arguments = parser.parse_args()
    peers_rate, peers_latency, rates, latencies = [], [], [], []
    ours = arguments.build / "benchmarks/carrier/ucx_shards"
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for number in range(arguments.rounds):
        # Columns: count, typical and average and overall microseconds, average and overall MB/s (of 2**20), messages/s.
        bandwidth = perftest("ucp_am_bw", SHARD, arguments.shards, 3, arguments.port)
        latency = perftest("ucp_am_lat", 64, arguments.frames, 500, arguments.port)
        peers_rate.append(float(bandwidth[5]) * (1 << 20))
        peers_latency.append(float(latency[1]))
        command = [ours, "127.0.0.1:0", str(arguments.shards), str(arguments.frames)]
        rate, micros = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300
        ).stdout.split()
        rates.append(float(rate))
        latencies.append(float(micros))
        print(
            f"round {number}: ucx_perftest {peers_rate[-1] / 1e6:.0f} MB/s {peers_latency[-1]:.2f} us, "
            f"carrier {rates[-1] / 1e6:.0f} MB/s {latencies[-1]:.2f} us",
            flush=True,
        )
    print(
        f"64 MiB, MB/s: ucx_perftest {spread([r / 1e6 for r in peers_rate])}, carrier {spread([r / 1e6 for r in rates])}"
    )
    print(f"frame, us:    ucx_perftest {spread(peers_latency)}, carrier {spread(latencies)}")
    print(
        f"throughput {statistics.median(rates) / statistics.median(peers_rate):.2f} of ucx_perftest's, ",
        end="",
    )
    print(f"latency {statistics.median(latencies) / statistics.median(peers_latency):.2f} times")


if __name__ == "__main__":
    main()
