#!/usr/bin/env bash
# Fuzzes the frontend: `scripts/fuzz.sh [-t SECONDS] [-n EXECUTIONS] [TARGET...]`; 50,000 executions of every
# target where neither is given. With cargo-fuzz (`cargo install cargo-fuzz`, and a C++ compiler for libFuzzer)
# guided by coverage and under the address sanitizer; else the run with a fixed seed that is among the tests.
#
# A finding ends the run with the input in fuzz/artifacts/TARGET: a panic, 200 MiB at once, 20 seconds. Repair it,
# add the input to testdata/fuzz/TARGET, where every run begins. Inputs that take two seconds are reported there
# too; the tests, which measure again where the machine was busy, allow one.
set -euo pipefail
cd "$(dirname "$0")/.."
limits=(-runs=50000)
while getopts t:n: option; do
    case $option in
    t) limits=(-max_total_time="$OPTARG") ;;
    n) limits=(-runs="$OPTARG") ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- dockerfile words ignore mounts reference giturl
host=$(rustc -vV | sed -n 's/^host: //p')
if cargo fuzz --version >/dev/null 2>&1; then
    # The instrumentation is behind unstable flags of the compiler, which a stable one takes like this too.
    export RUSTC_BOOTSTRAP=1
    for target in "$@"; do
        # Found inputs gather in fuzz/corpus; the seeds stay as they are.
        mkdir -p "fuzz/corpus/$target"
        cargo fuzz run --target "$host" --target-dir "${CARGO_TARGET_DIR:-fuzz/target}" \
            "$target" "fuzz/corpus/$target" "testdata/fuzz/$target" -- \
            "${limits[@]}" -seed=1 -max_len=65536 -timeout=20 -report_slow_units=2 -malloc_limit_mb=200
    done
else
    cargo test --target "$host" -p frontend --test fuzz -- --nocapture
fi
