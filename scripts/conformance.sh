#!/usr/bin/env bash
# Runs the conformance kit against the release binary and holds its failures against docs/conformance.md:
# a failure that is not listed there fails the run, and so does a listed one that passes by now.
# usage: conformance.sh KIT [run.py arguments…]
set -euo pipefail
cd "$(dirname "$0")/.."
kit=$1
shift
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host" -p xbuild
work=$(mktemp -d)
registry=
cleanup() {
    [ -z "$registry" ] || kill "$registry" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/registry.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $work/registry}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
YAML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry=$!
for _ in $(seq 50); do
    python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/v2/')" 2>/dev/null && break
    sleep 0.1
done
mkdir "$work/cases"
python3 scripts/conformance_kit.py "$kit" "$work/kit"
python3 "$work/kit/run.py" --xbuild "$PWD/target/$host/release/xbuild" --registry "127.0.0.1:$port" --work "$work/cases" \
    --multi --busybox /bin/busybox --json "$work/result.json" "$@" || true
python3 scripts/conformance_check.py "$work/result.json" docs/conformance.md
