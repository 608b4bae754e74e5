"""Servers, mounts and clients: started, measured and always taken away again. Knows no workload."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request

UPLOADS = 4  # requests in flight of the yardstick, as many as a mount has by default
DOWNLOADS = 8
PATIENCE_S = 1800  # after which a command is taken for hung
GIB = 1 << 30


class Broken(Exception):
    """Something did not work. Slow is not broken."""


class Use:
    """What something cost: seconds, seconds of processor, peak memory in bytes."""

    def __init__(self, seconds, cpu, peak, said=None):
        self.seconds, self.cpu, self.peak, self.said = seconds, cpu, peak, said


def clean_env():
    """No setting of the user's own gets into a measurement."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("ASSETFS_", "RCLONE_"))}


def run(*argv, shell_in=None):
    """Runs a command to its end. What it cost; its output, parsed if it is JSON."""
    argv = [str(word) for word in argv]
    started = time.monotonic()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=shell_in,
                          env=clean_env(), text=True) as child:
        before = os_children()
        try:
            out, err = child.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise Broken(f"{' '.join(argv)}: no end after {PATIENCE_S} s") from None
        except BaseException:
            child.kill()
            raise
        seconds = time.monotonic() - started
        after = os_children()
    if child.returncode != 0:
        raise Broken(f"{' '.join(argv)}: status {child.returncode}: {err.strip()[-500:]}")
    try:
        said = json.loads(out)
    except ValueError:
        said = out
    return Use(seconds, after - before, None, said)


def os_children():
    """Seconds of processor of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def digest(path):
    """SHA-256 of a file, as hex digits."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_tree(left, right):
    """Fails unless two folders hold the same files with the same bytes."""
    run("diff", "-r", "-q", left, right)


def wait_until(ready, what, patience_s=PATIENCE_S):
    """Looks again and again, every 5 ms: for what nobody announces."""
    end = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > end:
            raise Broken(f"{what}: not after {patience_s} s")
        time.sleep(0.005)


def cpu_of(pid):
    """Seconds of processor that a process has used."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid):
    """The largest resident memory of a process, in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def end(child, patience_s=20):
    """Ends a child that was started here."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(patience_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Link:
    """What lies between a client and the store."""

    def __init__(self, name, rate=None, rtt=None):
        self.name, self.rate, self.rtt = name, rate, rtt

    def words(self):
        """For `assetfs serve`."""
        words = []
        if self.rate:
            words += ["--rate", str(self.rate)]
        if self.rtt:
            words += ["--rtt", self.rtt]
        return words


class Server:
    """`assetfs serve` over a folder, and `rclone serve webdav` over another one if there is rclone."""

    def __init__(self, rig, link):
        self.rig, self.link = rig, link
        self.home = rig.dir / f"server-{link.name}"
        self.folder, self.dav_folder = self.home / "assets", self.home / "dav"
        self.log, self.read_to = self.home / "requests.jsonl", 0
        self.stack = contextlib.ExitStack()
        self.dav, self.dav_child = None, None

    def __enter__(self):
        self.folder.mkdir(parents=True)
        self.dav_folder.mkdir()
        with self.stack:
            child = subprocess.Popen(
                [self.rig.assetfs, "serve", self.folder, "--api", "proget", "--log", self.log,
                 *self.link.words()],
                stdout=subprocess.PIPE, env=clean_env(), text=True)
            self.stack.callback(end, child)
            line = child.stdout.readline()
            if not line:
                raise Broken("assetfs serve did not start")
            self.base, self.source = line.split()[0], line.split()[-1]
            self.stack.callback(self.stop_dav)
            self.start_dav()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def stop_dav(self):
        if self.dav_child:
            end(self.dav_child)

    def start_dav(self):
        """Afresh, because it believes its own listings for minutes."""
        self.stop_dav()
        if not self.rig.rclone:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        child = subprocess.Popen(
            ["rclone", "serve", "webdav", self.dav_folder, "--addr", f"127.0.0.1:{port}",
             "--config", self.rig.dir / "rclone.conf"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        self.dav_child, self.dav = child, f"http://127.0.0.1:{port}"

        def answers():
            if child.poll() is not None:
                raise Broken("rclone serve webdav did not start")
            with socket.socket() as knock:
                return knock.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, "rclone serve webdav", 30)

    def forget(self, name):
        """Removes a file or folder from both stores."""
        url = f"{self.base}/delete/{name}?recursive=true"
        urllib.request.urlopen(urllib.request.Request(url, method="POST", data=b"")).close()
        dav = self.dav_folder / name
        shutil.rmtree(dav) if dav.is_dir() else dav.unlink(missing_ok=True)
        self.start_dav()

    def have(self, path, name):
        """Puts a local file or folder into both stores behind the back of all, digests known."""
        if path.is_dir():
            shutil.copytree(path, self.folder / name)
            shutil.copytree(path, self.dav_folder / name, copy_function=os.link)
            run(self.rig.plain, "list", self.base, name)
        else:
            shutil.copyfile(path, self.folder / name)
            os.link(path, self.dav_folder / name)
            run(self.rig.plain, "list", self.base, "")
        self.start_dav()

    def requests(self):
        """What the server has answered since the last call; all of it once the client is gone."""
        with open(self.log) as log:
            log.seek(self.read_to)
            text = log.read()
        whole = text.rfind("\n") + 1
        self.read_to += len(text[:whole].encode())
        return [json.loads(line) for line in text[:whole].splitlines()]


class Mounted:
    """A fresh mount: nothing in the kernel's cache of it, nothing in its own."""

    name = ""

    def __init__(self, server):
        self.rig, self.server = server.rig, server
        self.home = self.rig.fresh()
        self.path = self.home / "mnt"
        self.pid = None

    def __enter__(self):
        self.path.mkdir(parents=True)
        self.rig.drop_caches()
        try:
            self.pid = self.start()
            self.cpu_before = cpu_of(self.pid)
        except BaseException:
            self.let_go()
            raise
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                started = time.monotonic()
                self.stop()
                self.unmounted_in = time.monotonic() - started
        finally:
            self.let_go()

    def let_go(self):
        """Whatever happened: no mount and no process stays."""
        if os.path.ismount(self.path):
            subprocess.run(["fusermount3", "-u", "-z", self.path], check=False)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
        shutil.rmtree(self.home, ignore_errors=True)

    def cost(self, seconds):
        """Of the mount's process since it was mounted."""
        return Use(seconds, cpu_of(self.pid) - self.cpu_before, peak_of(self.pid))


class Assetfs(Mounted):
    """Ours."""

    name = "assetfs"

    def start(self):
        mount = run(self.rig.assetfs, "mount", self.server.source, self.path,
                    "--state-dir", self.home / "state")
        self.mounted_in = mount.seconds
        return run(self.rig.assetfs, "status", "--json", self.path).said["pid"]

    def stop(self):
        run(self.rig.assetfs, "umount", "--timeout", "60", self.path)
        self.pid = None

    def arrived(self, *_):
        """close(2) has answered: it is there."""


class Rclone(Mounted):
    """The other one. Its close answers before the store has the file, so that is waited for."""

    name = "rclone"

    def start(self):
        argv = ["rclone", "mount", ":webdav:", self.path, "--webdav-url", self.server.dav,
                "--config", self.rig.dir / "rclone.conf", "--cache-dir", self.home / "cache",
                "--vfs-cache-mode", "writes", "--vfs-write-back", "0s"]
        if self.server.link.rate:
            argv += ["--bwlimit", f"{self.server.link.rate}B"]
        started = time.monotonic()
        self.child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      env=clean_env())
        self.pid = self.child.pid

        def answers():
            if self.child.poll() is not None:
                self.pid = None
                raise Broken(f"rclone mount ended with status {self.child.returncode}")
            return os.path.ismount(self.path)

        wait_until(answers, "rclone mount", 30)
        self.mounted_in = time.monotonic() - started
        return self.pid

    def stop(self):
        run("fusermount3", "-u", self.path)
        self.child.wait(60)
        self.pid = None

    def let_go(self):
        super().let_go()
        if getattr(self, "child", None):
            self.child.wait()

    def arrived(self, path, name):
        """Waits until the store has as many bytes as `path`."""
        dav = self.server.dav_folder / name

        def there():
            pairs = [(path, dav)]
            if path.is_dir():
                pairs = [(file, dav / file.name) for file in path.iterdir()]
            return all(copy.exists() and copy.stat().st_size == file.stat().st_size
                       for file, copy in pairs)

        wait_until(there, "rclone's upload")


class Rig:
    """The programs and the working folder."""

    def __init__(self, folder, assetfs, plain, drop):
        self.dir, self.assetfs, self.plain, self.drop = folder, assetfs, plain, drop
        self.rclone = shutil.which("rclone")
        self.count = 0
        (folder / "rclone.conf").touch()

    def fresh(self):
        """A path that was not used before."""
        self.count += 1
        return self.dir / f"mount-{self.count}"

    def drop_caches(self):
        """The kernel's clean pages of all disks, if wanted: then the server reads from its disk."""
        if self.drop:
            os.sync()
            pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n")

    def mounts(self):
        """The kinds of mount to compare, ours first."""
        return [Assetfs, Rclone] if self.rclone else [Assetfs]

    def file(self, size):
        """A file of random bytes and its digest; made once."""
        path = self.dir / f"random-{size}"
        if not path.exists():
            with open(path, "wb") as file:
                left = size
                while left:
                    left -= file.write(os.urandom(min(left, 1 << 22)))
        return path, digest(path)

    def files(self, count, size):
        """A folder of files of random bytes; made once."""
        path = self.dir / f"files-{count}-{size}"
        if not path.exists():
            path.mkdir()
            for i in range(count):
                (path / f"f{i:05}.bin").write_bytes(os.urandom(size))
        return path
