"""The workloads. Each makes one pass over all sides, so that passes one after the other make pairs.

A side is ours ("assetfs"), the plain client of examples/plain.rs ("plain"; "plain, one by one" with
one request at a time, as cp and tar work), or "rclone". Every pass checks the bytes that moved.
"""

import time

from rig import DOWNLOADS, GIB, UPLOADS, Assetfs, Broken, Mounted, digest, run, same_tree
from sheet import HIGHER, LOWER

PLAIN, ONE = "plain", "plain, one by one"


class Bench:
    """One rig, one sheet, and the sizes."""

    def __init__(self, rig, sheet, sizes):
        self.rig, self.sheet, self.sizes = rig, sheet, sizes

    def speed(self, row, side, size, use):
        """Adds bytes per second, and what it cost."""
        self.sheet.add(row, "MB/s", HIGHER, side, size / 1e6 / use.seconds)
        self.sheet.add(f"{row}: CPU of the client", "s/GiB", LOWER, side, use.cpu * GIB / size)
        if use.peak is not None:
            self.sheet.add(f"{row}: peak memory", "MiB", LOWER, side, use.peak / 2**20)

    def seconds(self, row, side, use):
        self.sheet.add(row, "s", LOWER, side, use.seconds)

    def life(self, mount: Mounted):
        """W7, from every mount that there is."""
        if "W7" in self.sizes.only:
            self.sheet.add("W7 mount", "s", LOWER, mount.name, mount.mounted_in)
            self.sheet.add("W7 unmount", "s", LOWER, mount.name, mount.unmounted_in)

    def w1(self, server):
        """A large file in, until the store has it."""
        row, size = f"W1 cp in, {server.link.name}", self.sizes.large(server.link)
        file, want = self.rig.file(size)

        def check(copy):
            got = digest(copy)
            if got != want:
                raise Broken(f"{row}: the store has {got}, the source is {want}")
            server.forget("big")

        for kind in self.rig.mounts():
            with kind(server) as mount:
                use = run("cp", file, mount.path / "big")
                if kind is not Assetfs:
                    use = waited(use, lambda: mount.arrived(file, "big"))
                self.speed(row, mount.name, size, mount.cost(use.seconds))
                check((server.folder if kind is Assetfs else server.dav_folder) / "big")
            self.life(mount)
        self.speed(row, PLAIN, size, run(self.rig.plain, "put", server.base, "big", file, UPLOADS))
        check(server.folder / "big")

    def w2(self, server):
        """The same file out, cold."""
        row, size = f"W2 dd out cold, {server.link.name}", self.sizes.large(server.link)
        file, want = self.rig.file(size)
        server.have(file, "big")
        for kind in self.rig.mounts():
            with kind(server) as mount:
                use = run("dd", f"if={mount.path}/big", "of=/dev/null", "bs=1M", "status=none")
                self.speed(row, mount.name, size, mount.cost(use.seconds))
                if digest(mount.path / "big") != want:
                    raise Broken(f"{row}: {mount.name} gives other bytes")
            self.life(mount)
        self.speed(row, PLAIN, size, run(self.rig.plain, "get", server.base, "big", DOWNLOADS))
        server.forget("big")

    def w3(self, server):
        """Reads at random places of a large file, cold. The reader compares what it gets."""
        size = self.sizes.large(server.link)
        file, _ = self.rig.file(size)
        server.have(file, "big")
        for block, jobs in ((4096, 1), (4096, 16), (131072, 1), (131072, 16)):
            row = f"W3 random {block >> 10}K x{jobs}, {server.link.name}"

            def read(side, target):
                said = run(self.rig.plain, "random", target, file, block, jobs, self.sizes.seconds).said
                self.sheet.add(row, "reads/s", HIGHER, side, said["iops"])
                self.sheet.add(f"{row}: p50", "ms", LOWER, side, said["p50_ms"])
                self.sheet.add(f"{row}: p99", "ms", LOWER, side, said["p99_ms"])
                return said["reads"] * block

            for kind in self.rig.mounts():
                server.requests()
                with kind(server) as mount:
                    asked = read(mount.name, mount.path / "big")
                self.life(mount)
                if kind is Assetfs:
                    got = sum(r["bytes_out"] for r in server.requests() if "/content/" in r["target"])
                    self.sheet.add(f"{row}: fetched per byte asked", "", LOWER, mount.name, got / asked)
            read(PLAIN, f"{server.base}/content/big")
        server.forget("big")

    def w4(self, server):
        """Many small files in, listed, and out."""
        link, count = server.link, self.sizes.files(server.link)
        files = self.rig.files(count, 16 << 10)
        into, listed, out = (f"W4 {what}, {count} x 16K, {link.name}"
                             for what in ("cp -r in", "ls -lR cold", "tar out cold"))
        for kind in self.rig.mounts():
            store = server.folder if kind is Assetfs else server.dav_folder
            server.requests()
            with kind(server) as mount:
                use = run("cp", "-r", files, mount.path / "many")
                if kind is not Assetfs:
                    use = waited(use, lambda: mount.arrived(files, "many"))
                self.seconds(into, mount.name, use)
                same_tree(files, store / "many")
            self.life(mount)
            self.count(into, kind, server, per=count)
            with kind(server) as mount:
                self.seconds(listed, mount.name, run("ls", "-lR", mount.path / "many"))
            self.count(listed, kind, server)
            with kind(server) as mount:
                self.seconds(out, mount.name, run("sh", "-c", "tar cf - many | cat >/dev/null",
                                                  shell_in=mount.path))
                same_tree(files, mount.path / "many")
            self.count(out, kind, server, per=count)
        for side, up, down in ((PLAIN, UPLOADS, DOWNLOADS), (ONE, 1, 1)):
            server.forget("many")
            self.seconds(into, side, run(self.rig.plain, "put-all", server.base, "many", files, up))
            same_tree(files, server.folder / "many")
            self.seconds(listed, side, run(self.rig.plain, "list", server.base, "many"))
            self.seconds(out, side, run(self.rig.plain, "get-all", server.base, "many", down))
        server.forget("many")

    def w5(self, server):
        """A large folder listed, cold and again."""
        count = self.sizes.entries
        folder = self.rig.files(count, 16)
        cold, warm = (f"W5 ls -l {when}, {count} entries, {server.link.name}" for when in ("cold", "warm"))
        server.have(folder, "wide")
        for kind in self.rig.mounts():
            server.requests()
            with kind(server) as mount:
                use = run("ls", "-l", mount.path / "wide")
                self.seconds(cold, mount.name, use)
                if len(use.said.splitlines()) != count + 1:
                    raise Broken(f"{cold}: {mount.name} lists {len(use.said.splitlines()) - 1}")
                self.count(cold, kind, server)
                self.seconds(warm, mount.name, run("ls", "-l", mount.path / "wide"))
                self.count(warm, kind, server)
            self.life(mount)
        self.seconds(cold, PLAIN, run(self.rig.plain, "list", server.base, "wide"))
        server.forget("wide")

    def w7(self, server):
        """Mount and unmount and nothing else."""
        for kind in self.rig.mounts():
            with kind(server) as mount:
                run("ls", mount.path)
            self.life(mount)

    def count(self, row, kind, server, per=None):
        """Adds how many requests the server saw; with `per`, for each of so many things."""
        if kind is not Assetfs:
            return
        seen = server.requests()
        if per:
            self.sheet.add(f"{row}: requests per file", "", LOWER, kind.name, len(seen) / per)
            return
        listings = sum(r["method"] == "GET" and "/dir/" in r["target"] for r in seen)
        self.sheet.add(f"{row}: listings asked", "", LOWER, kind.name, listings)
        self.sheet.add(f"{row}: other requests", "", LOWER, kind.name, len(seen) - listings)


def waited(use, wait):
    """`use` and the time that `wait` takes after it."""
    started = time.monotonic()
    wait()
    use.seconds += time.monotonic() - started
    return use
