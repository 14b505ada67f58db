#!/usr/bin/env bash
# Prints a table of what the builder costs on this machine, each row with its goal.
# usage: bench.sh XBUILD
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh
exec python3 scripts/bench.py "$@"
