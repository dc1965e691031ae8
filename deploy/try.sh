#!/usr/bin/env bash
# The main job: a small GPT trained with muond.Muon, beside AdamW and torch's own Muon.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/try.sh [--help] [demo options]

Trains a small GPT on the text of Python's standard library with two DDP ranks on the CPU, three times: with muond.Muon
(the daemon starts by itself), with torch.optim.AdamW and with torch.optim.Muon + AdamW. Prints
progress, then a table, and draws build/demo/loss.png. About 3 minutes; set-up before the first run about 5 to
15 minutes more (deploy/setup.sh --help says what it installs).

Demo options are passed on: see  deploy/try.sh --demo-help
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
./deploy/setup.sh
# shellcheck source=/dev/null
. build/env.sh
[ "${1:-}" = --demo-help ] && set -- --help
exec "$MUOND_PYTHON" deploy/demo/run.py "$@"
