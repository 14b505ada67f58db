#!/usr/bin/env bash
# Installs the Debian packages that tests, demo and benchmarks use. Does nothing where all are there.
set -euo pipefail
programs=(docker-registry skopeo umoci runc debootstrap newuidmap busybox curl jq strace xz bzip2 zstd git nm openssl python3)
missing=0
for program in "${programs[@]}"; do command -v "$program" >/dev/null || missing=1; done
# The tests run it in empty root file systems.
! ldd "$(command -v busybox)" >/dev/null 2>&1 || missing=1
[ "$missing" = 1 ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "packages: no apt-get here; tests of foreign tools will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# Mirrors stumble, and others may be installing at this moment.
patient=(-q -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)
apt-get "${patient[@]}" update >/dev/null
apt-get "${patient[@]}" install -y --no-install-recommends \
    docker-registry skopeo umoci runc debootstrap uidmap busybox-static curl jq strace xz-utils bzip2 zstd git \
    binutils ca-certificates openssl python3 >/dev/null
