#!/usr/bin/env python3
"""Times pushes and pulls over loopback, xbuild's beside skopeo's and BuildKit's, in one run; prints medians and goals.

usage: bench_registry.py XBUILD [-n RUNS] [-m MIB] [-c noise,text] [--skopeo CMD] [--registry CMD] [--docker CMD] [-d DIR]
An image has 4 layers of MIB each (tar, before gzip). Every push goes into an empty registry, every pull into an empty
store. DIR is best in memory, or the disk is measured. A command may be of several words, such as "chroot DIR skopeo",
when it sees the same files. Wall time and peak resident memory are those of the client process, cpu is user + system
of it, registry is that of the server meanwhile. BuildKit pushes a cached build (docker buildx build --push), so its time
holds solving, too; it is left out where no daemon answers. Exit 1: a goal is missed.
"""
import argparse, gzip, hashlib, io, json, multiprocessing, os, random, re, shutil, socket, statistics, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

LAYERS = 4
OCI = "application/vnd.oci.image."


def call(command):
    """Runs a command; returns wall seconds, cpu seconds and peak resident MiB of it and its children."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = status
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{error.decode(errors='replace')[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024}


def apart(function, *arguments):
    """Calls a function that needs much memory in a process of its own: a child's peak is at least its parent's."""
    process = multiprocessing.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


class Registry:
    """A registry with nothing in it, on a free port of loopback; ends with the block."""

    def __init__(self, command, directory):
        self.command, self.parent = command, directory

    def __enter__(self):
        self.directory = Path(tempfile.mkdtemp(dir=self.parent))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.directory / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.directory}/data}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        self.log = (self.directory / "log").open("wb")
        self.process = subprocess.Popen([*self.command, "serve", str(config)], stdout=self.log, stderr=self.log)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.02)
        sys.exit(f"{' '.join(self.command)} does not listen: see {self.directory}/log")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory)

    def name(self, rest):
        return f"127.0.0.1:{self.port}/{rest}"

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def requests(self):
        """Method and path of every request so far."""
        self.log.flush()
        return re.findall(r'"(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP', (self.directory / "log").read_text())

    def measure(self, command):
        before = self.cpu()
        return {**call(command), "registry": self.cpu() - before}


def content(kind, size, seed):
    source = random.Random(seed)
    if kind == "noise":
        return source.randbytes(size)
    words = [bytes(source.choices(range(97, 123), k=source.randint(3, 9))) for _ in range(4000)]
    block = b" ".join(source.choices(words, k=1 << 18))
    return (block * (size // len(block) + 1))[:size] if kind == "text" else sys.exit(f"no content {kind}")


def image(directory, kind, size):
    """Writes an OCI layout with one image, tagged v."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": OCI + media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layers, diff_ids = [], []
    for number in range(LAYERS):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo(f"data{number}")
            member.size = size
            tar.addfile(member, io.BytesIO(content(kind, size, number)))
        raw = archive.getvalue()
        diff_ids.append(f"sha256:{hashlib.sha256(raw).hexdigest()}")
        layers.append(put("layer.v1.tar+gzip", gzip.compress(raw, 0 if kind == "noise" else 1, mtime=0)))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    config = put("config.v1+json", json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
    manifest = put("manifest.v1+json", json.dumps(manifest).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "v"}
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def context(directory, kind, size):
    """Writes a context that builds an image like that of `image`."""
    directory.mkdir()
    for number in range(LAYERS):
        (directory / f"data{number}").write_bytes(content(kind, size, number))
    (directory / "Dockerfile").write_text("FROM scratch\n" + "".join(f"COPY data{n} /\n" for n in range(LAYERS)))


class Bench:
    def __init__(self, arguments, work):
        self.work, self.runs = work, arguments.n
        self.xbuild = [str(Path(arguments.xbuild).resolve())]
        self.skopeo, self.docker = arguments.skopeo.split(), arguments.docker.split()
        self.registry = arguments.registry.split()

    def started(self):
        return Registry(self.registry, self.work)

    def median(self, runs):
        pick = {"wall": statistics.median, "cpu": statistics.median, "registry": statistics.median, "rss": max}
        return {key: value(run[key] for run in runs) for key, value in pick.items()}

    def skopeo_push(self, layout, target):
        return [*self.skopeo, "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v", f"docker://{target}"]

    def skopeo_pull(self, source, layout):
        return [*self.skopeo, "copy", "-q", "--src-tls-verify=false", f"docker://{source}", f"oci:{layout}:v"]

    def store(self, layout):
        """A store of xbuild's with the image of a layout in it; returns store and name."""
        store = self.work / f"store-{layout.name}"
        with self.started() as registry:
            call(self.skopeo_push(layout, registry.name("source:1")))
            call([*self.xbuild, "--root", str(store), "pull", registry.name("source:1")])
            return store, registry.name("source:1")

    def push(self, layout):
        """Pushes in turn, so that a machine that becomes busier becomes so for all."""
        store, name = self.store(layout)
        again, results = {}, {}
        buildkit = self.buildkit(layout)
        for _ in range(self.runs):
            with self.started() as registry:
                command = [*self.xbuild, "--root", str(store), "push", name, registry.name("target:1")]
                results.setdefault("xbuild", []).append(registry.measure(command))
                before = len(registry.requests())
                again = {**registry.measure(command), "requests": registry.requests()[before:]}
            with self.started() as registry:
                command = self.skopeo_push(layout, registry.name("target:1"))
                results.setdefault("skopeo", []).append(registry.measure(command))
            if buildkit:
                with self.started() as registry:
                    command = [*buildkit, "-t", registry.name("target:1"), str(self.work / f"context-{layout.name}")]
                    results.setdefault("buildkit", []).append(registry.measure(command))
        shutil.rmtree(store)
        return {tool: self.median(runs) for tool, runs in results.items()}, again

    def pull(self, layout):
        results = {}
        with self.started() as registry:
            call(self.skopeo_push(layout, registry.name("source:1")))
            for _ in range(self.runs):
                target = self.work / "pulled"
                command = [*self.xbuild, "--root", str(target), "pull", registry.name("source:1")]
                results.setdefault("xbuild", []).append(registry.measure(command))
                shutil.rmtree(target)
                results.setdefault("skopeo", []).append(registry.measure(self.skopeo_pull(registry.name("source:1"), target)))
                shutil.rmtree(target)
        return {tool: self.median(runs) for tool, runs in results.items()}

    def buildkit(self, layout):
        """Builds an image like that of a layout, and pushes it once: layers are compressed then."""
        if not self.docker or subprocess.run([*self.docker, "info"], capture_output=True).returncode:
            return None
        directory = self.work / f"context-{layout.name}"
        kind, size = layout.name.split("-")
        apart(context, directory, kind, int(size))
        command = [*self.docker, "buildx", "build", "-q", "--provenance=false", "--push"]
        with self.started() as registry:
            call([*command, "-t", registry.name("warm:1"), str(directory)])
        return command


def row(what, size, results):
    for tool, result in results.items():
        rate = size / (1 << 20) / result["wall"]
        print(
            f"{what:12} {tool:9} {result['wall']:6.2f} s {rate:6.0f} MiB/s   cpu {result['cpu']:5.2f} s"
            f"   registry {result['registry']:5.2f} s   peak {result['rss']:4.0f} MiB",
            flush=True,
        )


def goal(text, met):
    print(f"  {'met   ' if met else 'MISSED'} {text}", flush=True)
    return met


def ratio(results, other):
    return results[other]["wall"] / results["xbuild"]["wall"]


def compare(bench, kind, size):
    layout = bench.work / f"{kind}-{size}"
    apart(image, layout, kind, size)
    total = sum(blob.stat().st_size for blob in (layout / "blobs/sha256").iterdir())
    pushed, again = bench.push(layout)
    row(f"push {kind}", total, pushed)
    pulled = bench.pull(layout)
    row(f"pull {kind}", total, pulled)
    shutil.rmtree(layout)
    uploads = [method for method, path in again["requests"] if "/blobs/" in path and method in ("POST", "PUT", "PATCH")]
    peak = max(pushed["xbuild"]["rss"], pulled["xbuild"]["rss"])
    met = [
        goal(f"push {ratio(pushed, 'skopeo'):.2f} x skopeo's rate (1.5)", ratio(pushed, "skopeo") >= 1.5),
        goal(f"pull {ratio(pulled, 'skopeo'):.2f} x skopeo's rate (1.5)", ratio(pulled, "skopeo") >= 1.5),
        goal(f"peak memory {peak:.0f} MiB (64)", peak <= 64),
        goal(
            f"second push: {len(again['requests'])} requests (10), {len(uploads)} of them uploads (0), {again['wall']:.2f} s",
            len(again["requests"]) <= 10 and not uploads,
        ),
    ]
    if "buildkit" in pushed:
        met.append(goal(f"push {ratio(pushed, 'buildkit'):.2f} x BuildKit's rate (1.0)", ratio(pushed, "buildkit") >= 1))
    return all(met)


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].split("\n")[0].removeprefix("usage: "))
    parser.add_argument("xbuild")
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("-m", type=int, default=128)
    parser.add_argument("-c", default="noise,text")
    parser.add_argument("--skopeo", default="skopeo")
    parser.add_argument("--registry", default="docker-registry")
    parser.add_argument("--docker", default="docker" if shutil.which("docker") else "")
    parser.add_argument("-d", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.d) as work:
        bench = Bench(arguments, Path(work))
        met = [compare(bench, kind, arguments.m << 20) for kind in arguments.c.split(",")]
    sys.exit(0 if all(met) else 1)


main()
