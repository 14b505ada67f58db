#!/usr/bin/env bash
# The demonstration: builds testdata/flaskdemo, runs it, asks it, builds it again from the cache.
# usage: demo.sh XBUILD
set -euo pipefail
cd "$(dirname "$0")/.."
xbuild=$(realpath "$1")
base=docker.io/library/python:3.7.12-slim
work=$(mktemp -d)
export XBUILD_ROOT=$work/store
server=
cleanup() {
    [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server" || true; }
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
say() { printf '\n== %s\n' "$*"; }
now() { date +%s%N; }
elapsed() { echo "$(( ($2 - $1) / 1000000 )) ms"; }

[ "$(id -u)" = 0 ] || { echo "demo: run me as root" >&2; exit 1; }
command -v curl >/dev/null || scripts/packages.sh

say "base image $base"
if timeout 60 "$xbuild" pull "$base"; then
    echo "pulled from Docker Hub"
else
    echo "Docker Hub does not answer here, so a stand-in is made with xbuild itself:"
    echo "FROM scratch + ADD of a Debian root file system with Python 3 and pip, tagged $base"
    scripts/standin.sh "$work/base"
    "$xbuild" build --network host -t "$base" "$work/base"
    rm -rf "$work/base"
fi

say "xbuild -t flaskdemo testdata/flaskdemo"
start=$(now)
"$xbuild" --root "$XBUILD_ROOT" -t flaskdemo --network host --host-ca testdata/flaskdemo
first=$(elapsed "$start" "$(now)")

say "xbuild run flaskdemo, and GET /hello?name=World"
"$xbuild" run flaskdemo >"$work/server.log" 2>&1 &
server=$!
answer=
for _ in $(seq 1200); do
    kill -0 "$server" 2>/dev/null || { cat "$work/server.log" >&2; echo "demo: the server ended" >&2; exit 1; }
    answer=$(curl -fsS --noproxy '*' 'http://127.0.0.1:1234/hello?name=World' 2>/dev/null) && break
    sleep 0.1
done
echo "$answer"
case $answer in
*World*) ;;
*) cat "$work/server.log" >&2; echo "demo: no answer from the application" >&2; exit 1 ;;
esac
kill -TERM "$server"
wait "$server" || true
server=

say "the same build again: every step cached"
start=$(now)
"$xbuild" -t flaskdemo --network host --host-ca --progress=plain testdata/flaskdemo 2>&1 | tee "$work/second.log"
second=$(elapsed "$start" "$(now)")
cached=$(grep -c CACHED "$work/second.log" || true)
[ "$cached" = 3 ] || { echo "demo: expected 3 cached steps, saw $cached" >&2; exit 1; }

say "first build $first, second build $second"
