#!/usr/bin/env python3
"""Copies the conformance kit so that its test data is what the kit describes: with symbolic links.

A copy that went through something without links has a file with the target's path in a link's place, and cases
that are about links fail for every builder. Such a file holds the path of something beside it, no newline, and
is not the file it names.
usage: conformance_kit.py KIT COPY
"""
import os, shutil, sys
from pathlib import Path

LONGEST = 200

def target(path):
    """Returns where a link stood for in `path` would lead, or None."""
    if path.is_symlink() or not path.is_file() or not 0 < path.stat().st_size <= LONGEST:
        return None
    text = path.read_bytes()
    if b"\n" in text or b"\0" in text:
        return None
    text = os.fsdecode(text)
    there = path.parent / text
    return text if os.path.lexists(there) and not os.path.samefile(there, path) else None

def main():
    kit, copy = map(Path, sys.argv[1:])
    shutil.copytree(kit, copy, symlinks=True)
    for directory, _, _ in os.walk(copy):
        os.chmod(directory, 0o755)
    files = [path for path in (copy / "data").rglob("*") if "testdata" in path.parts]
    links = [(path, text) for path in sorted(files) if (text := target(path)) is not None]
    for path, text in links:
        path.unlink()
        path.symlink_to(text)
    if links:
        print(f"conformance: the kit at {kit} has lost {len(links)} symbolic links; they are restored in the copy")

main()
