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
    [ -z "$registry" ] || { kill "$registry" 2>/dev/null && wait "$registry" || true; }
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
# The port is bound, without listening, before the registry starts and as long as it lives: nobody else is given it,
# and the registry can take it, since it sets SO_REUSEADDR too (socket(7)).
python3 - "$work" >"$work/registry.log" 2>&1 <<'PYTHON' &
import os, socket, sys
work = sys.argv[1]
kept = socket.socket()
kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
kept.bind(("127.0.0.1", 0))
kept.set_inheritable(True)
host = "127.0.0.1:%d" % kept.getsockname()[1]
with open(work + "/registry.yml", "w") as file:
    file.write("version: 0.1\nhttp: {addr: \"%s\"}\n" % host)
    file.write("storage: {filesystem: {rootdirectory: %s/registry}, delete: {enabled: true}}\n" % work)
with open(work + "/host", "w") as file:
    file.write(host)
os.execvp("docker-registry", ["docker-registry", "serve", work + "/registry.yml"])
PYTHON
registry=$!
for attempt in $(seq 600); do
    host_of_registry=$(cat "$work/host" 2>/dev/null || true)
    curl -fs --noproxy '*' -o /dev/null "http://$host_of_registry/v2/" && break
    kill -0 "$registry" 2>/dev/null && [ "$attempt" != 600 ] || {
        cat "$work/registry.log" >&2
        echo "conformance: the registry does not answer" >&2
        exit 1
    }
    sleep 0.2
done
mkdir "$work/cases"
python3 scripts/conformance_kit.py "$kit" "$work/kit"
python3 "$work/kit/run.py" --xbuild "$PWD/target/$host/release/xbuild" --registry "$host_of_registry" --work "$work/cases" \
    --multi --busybox /bin/busybox --json "$work/result.json" "$@" || true
python3 scripts/conformance_check.py "$work/result.json" docs/conformance.md
