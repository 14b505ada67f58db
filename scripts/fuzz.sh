#!/usr/bin/env bash
# Fuzzes the frontend: `scripts/fuzz.sh [EXECUTIONS]`. With cargo-fuzz and nightly, coverage-guided; else the
# fixed-seed run of 50,000 executions per target that is among the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
executions=${1:-50000}
if cargo +nightly fuzz --version >/dev/null 2>&1; then
    for target in dockerfile words ignore mounts reference giturl; do
        # Found inputs gather in fuzz/corpus; the seeds stay as they are.
        mkdir -p "fuzz/corpus/$target"
        cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "testdata/fuzz/$target" -- \
            -runs="$executions" -seed=1 -max_len=65536 -timeout=1 -malloc_limit_mb=200
    done
else
    cargo test --target "$(rustc -vV | sed -n 's/^host: //p')" -p frontend --test fuzz -- --nocapture
fi
