#!/usr/bin/env bash
# Makes a build context whose image can stand in for python:3.7.12-slim where Docker Hub does not answer:
# Debian with Python 3 and pip, `python` on the PATH, and a pip constraint so that `from flask import escape`
# works as it did in the days of Python 3.7.
# usage: standin.sh DIRECTORY
set -euo pipefail
directory=$1
mkdir -p "$directory"
command -v debootstrap >/dev/null || "$(dirname "$0")/packages.sh"
suite=bookworm
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates "$suite" "$root" >"$directory/debootstrap.log" 2>&1 ||
    { tail -20 "$directory/debootstrap.log" >&2; exit 1; }
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED "$root"/var/cache/apt/archives/*.deb "$directory/debootstrap.log"
rm -rf "$root"/var/lib/apt/lists/*
ln -sf python3 "$root/usr/bin/python"
printf 'flask<2.3\nwerkzeug<3\n' >"$root/etc/pip-constraints.txt"
# Steps have a /dev of their own; ADD takes no device nodes without being told to.
tar --numeric-owner --sort=name --exclude="./dev/*" -C "$root" -cf "$directory/rootfs.tar" .
cat >"$directory/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
ENV PIP_CONSTRAINT=/etc/pip-constraints.txt PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
CMD ["python3"]
DOCKERFILE
