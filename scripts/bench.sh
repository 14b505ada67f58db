#!/usr/bin/env bash
# Prints tables of what the builder costs on this machine, each with its goals: builds, then pushes and pulls.
# usage: bench.sh XBUILD [ARGUMENTS of bench.py, which then runs alone]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh
missed=0
python3 scripts/bench.py "$@" || missed=1
[ $# -gt 1 ] || python3 scripts/bench_registry.py "$1" || missed=1
exit $missed
