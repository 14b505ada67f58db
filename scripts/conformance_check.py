#!/usr/bin/env python3
"""Holds the conformance kit's results against the list of known failures in docs/conformance.md.

The list's lines are `- SUITE/CASE: reason` (spaces of a case as `_`). Exit 1: a failure that is not listed, or a
listed case that passes. Cases that were not run do not count. What depends on the machine (the reason begins so) may
do either.
"""
import json, re, sys

def main():
    results = json.load(open(sys.argv[1]))["results"]
    known = dict(re.findall(r"^- `([^`]+)`: (.+)$", open(sys.argv[2]).read(), re.M))
    states = {}
    for row in results:
        states.setdefault(f"{row['suite']}/{row['case']}".replace(" ", "_"), []).append(row)
    if not states:
        sys.exit("conformance: no case was run")
    bad = 0
    for case, rows in sorted(states.items()):
        failed = [row for row in rows if row["state"] == "fail"]
        if failed and case not in known:
            print(f"conformance: {case} fails and is not listed: {failed[0]['detail'][:300]}")
            bad += 1
        either = known.get(case, "").startswith("depends on the machine")
        if not failed and case in known and not either and any(row["state"] == "pass" for row in rows):
            print(f"conformance: {case} is listed as failing and passes: take it off the list")
            bad += 1
    passed = sum(all(row["state"] != "fail" for row in rows) for rows in states.values())
    print(f"conformance: {passed} of {len(states)} cases hold, {len(known)} listed as known failures")
    sys.exit(1 if bad else 0)

main()
