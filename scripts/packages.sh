#!/usr/bin/env bash
# Installs the Debian packages that tests, demo and benchmarks use. Does nothing where all are there.
set -euo pipefail
programs=(docker-registry skopeo umoci runc debootstrap newuidmap busybox curl jq strace xz bzip2 zstd git nm)
missing=0
for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing=1; done
[ "$missing" = 1 ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "packages: no apt-get here; tests of foreign tools will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -y -q --no-install-recommends \
    docker-registry skopeo umoci runc debootstrap uidmap busybox-static curl jq strace xz-utils bzip2 zstd git \
    binutils ca-certificates python3 >/dev/null
