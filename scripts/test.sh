#!/usr/bin/env bash
# Runs all tests, unit and end to end, with nextest where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
# The end-to-end tests drive the binary, which must be static like the one that is shipped.
cargo build --target "$host" -p xbuild
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --target "$host" --workspace --no-fail-fast "$@"
else
    cargo test --target "$host" --workspace --no-fail-fast "$@"
fi
