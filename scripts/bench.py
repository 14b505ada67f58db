#!/usr/bin/env python3
"""Times xbuild on the everyday work, in fresh stores, and prints medians beside the goals.

usage: bench.py XBUILD [-n RUNS] [ROW...]
Wall time, processor time and peak resident memory are those of the whole process, from start to exit. Where the
machine is busy, compare processor times. Exit 1: a goal is missed.
"""
import argparse, os, random, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path


def call(command):
    """Runs a command; returns wall seconds, processor seconds and peak resident MiB of it and its children."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{error.decode(errors='replace')[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


class Bench:
    def __init__(self, xbuild, work, runs):
        self.xbuild, self.work, self.runs = xbuild, work, runs
        self.store = work / "store"

    def build(self, context, *flags):
        return call([self.xbuild, "--root", str(self.store), "build", "-q", "--network", "host", *flags, str(context)])

    def context(self, name, dockerfile):
        directory = self.work / name
        directory.mkdir(exist_ok=True)
        (directory / "Dockerfile").write_text(dockerfile)
        return directory

    def median(self, run):
        results = [run() for _ in range(self.runs)]
        return (*(statistics.median(column) for column in list(zip(*results))[:2]), max(r[2] for r in results))

    def base(self):
        root = self.work / "busybox"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        context = self.context("base", "FROM scratch\nADD rootfs.tar /\n")
        subprocess.check_call(["tar", "-C", str(root), "-cf", str(context / "rootfs.tar"), "."])
        self.build(context, "-t", "busybox")


def tree(directory, files, size):
    source = random.Random(1)
    words = [bytes(source.choices(range(97, 123), k=source.randint(3, 9))) for _ in range(4000)]
    for n in range(files):
        path = directory / f"m{n % 97}" / f"p{n % 13}" / f"f{n}.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b" ".join(source.choices(words, k=size // 7)))


def noop(bench):
    context = bench.context("noop", "FROM busybox\n" + "".join(f"ENV A{i}=v\n" for i in range(8)) + "WORKDIR /app\nCOPY src /app/src\n"
                            + "".join(f"RUN echo {i} > /r{i}\n" for i in range(6)) + "EXPOSE 80\nUSER nobody\nCMD [\"sh\"]\n")
    tree(context / "src", 2000, 3000)
    bench.build(context, "-t", "noop")
    time.sleep(2.1)  # files changed within the last two seconds are hashed again, as git does
    bench.build(context, "-t", "noop")
    return bench.median(lambda: bench.build(context, "-t", "noop"))


def runs(bench):
    context = bench.context("runs", "FROM busybox\n" + "".join(f"RUN true # {i}\n" for i in range(40)))
    wall, cpu, memory = bench.median(lambda: bench.build(context, "--no-cache"))
    return wall / 40, cpu / 40, memory


def files(bench):
    context = bench.context("files", "FROM busybox\nCOPY src /src\n")
    tree(context / "src", 20000, 2500)
    return bench.median(lambda: bench.build(context, "--no-cache"))


def edit(bench):
    context = bench.context("edit", "FROM busybox\nCOPY src /src\nRUN true\n")
    tree(context / "src", 20000, 2500)
    bench.build(context)
    time.sleep(2.1)  # as above
    bench.build(context)
    versions = iter(range(1000))

    def change():
        (context / "src/m0/p0/f0.js").write_text(f"version {next(versions)}")
        return bench.build(context)

    return bench.median(change)


def big(bench):
    context = bench.context("big", "FROM scratch\nCOPY data /data\n")
    (context / "data").mkdir()
    block = os.urandom(1 << 19) + bytes(1 << 19)
    for n in range(4):
        with open(context / "data" / f"f{n}", "wb") as file:
            for _ in range(256):
                file.write(block[n:] + block[:n])
    return bench.median(lambda: bench.build(context, "--no-cache"))


def meta(bench):
    context = bench.context("meta", "FROM busybox\n" + "".join(f"ENV K{i}=v\nLABEL l{i}=v\n" for i in range(250)))
    bench.build(context)
    return bench.median(lambda: bench.build(context))


def par(bench):
    stages = "".join(f"FROM busybox AS s{i}\nRUN sleep 1 && echo {i} > /o{i}\n" for i in range(6))
    context = bench.context("par", stages + "FROM scratch\n" + "".join(f"COPY --from=s{i} /o{i} /\n" for i in range(6)))
    return bench.median(lambda: bench.build(context, "--no-cache", "--jobs", "6"))


ROWS = [
    ("rebuild, all cached (2,000 files)", noop, 0.060, None),
    ("RUN true, each of 40", runs, 0.012, None),
    ("COPY 20,000 files", files, 1.5, None),
    ("one of 20,000 changed, COPY + RUN", edit, 1.5, None),
    ("COPY 1 GiB, gzip layer", big, None, 150),
    ("500 metadata instructions", meta, 0.060, None),
    ("six stages of sleep 1", par, 1.5, None),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("xbuild")
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of: " + " ".join(row[1].__name__ for row in ROWS))
    arguments = parser.parse_intermixed_args()
    rows = [row for row in ROWS if not arguments.rows or row[1].__name__ in arguments.rows]
    missed = 0
    print(f"{'work':36} {'median':>10} {'goal':>10} {'processor':>10} {'peak MiB':>9} {'goal':>5}")
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(arguments.xbuild, Path(work), arguments.n)
        bench.base()
        for name, run, wall_goal, memory_goal in rows:
            wall, cpu, memory = run(bench)
            bad = (wall_goal and wall > wall_goal) or (memory_goal and memory > memory_goal)
            missed += bool(bad)
            goal = f"{wall_goal * 1000:.0f} ms" if wall_goal else "-"
            print(f"{name:36} {wall * 1000:7.1f} ms {goal:>10} {cpu * 1000:7.1f} ms {memory:9.0f} {memory_goal or '-':>5} {'MISSED' if bad else ''}", flush=True)
    sys.exit(1 if missed else 0)


main()
