//! A server in a process of its own, a mount that is killed and started again, and a program that works
//! on it: also in a process of its own, so that no file of it is inherited by anything that is started
//! meanwhile (each such copy, when it is closed, is a close of the file).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "k3y";

/// Within this a mount answers or ends.
const PATIENCE: Duration = Duration::from_secs(60);

fn assetfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assetfs"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("ASSETFS_API_KEY", KEY)
        .env("RUST_BACKTRACE", "1");
    command
}

/// `assetfs serve` over a folder.
pub(crate) struct Served {
    child: Child,
    home: tempfile::TempDir,
    address: String,
}

impl Served {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let faults = home.path().join("faults.json");
        std::fs::write(&faults, "[]").unwrap();
        let mut child = assetfs()
            .args(["serve", "--api=proget"])
            .arg(home.path().join("served"))
            .arg(format!("--faults={}", faults.display()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line
            .strip_prefix("http://")
            .and_then(|l| l.split('/').next());
        let address = address.expect("an address").to_owned();
        Served {
            child,
            home,
            address,
        }
    }

    /// The fault rules from now on, as JSON. Their length must differ from that of the ones before.
    pub(crate) fn faults(&self, rules: &str) {
        let path = self.home.path().join("faults.json");
        let new = path.with_extension("new");
        std::fs::write(&new, rules).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// The folder that is served.
    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("served")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A file of the spool, by its record.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) class: String,
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
}

/// A folder of a server, mounted again and again with one state directory.
pub(crate) struct World<'a> {
    served: &'a Served,
    folder: String,
    home: tempfile::TempDir,
    state: PathBuf,
    flags: Vec<String>,
    daemon: Option<Child>,
}

impl<'a> World<'a> {
    /// `folder` must be new on the server.
    pub(crate) fn new(served: &'a Served, folder: &str, flags: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        for name in ["mnt", "state"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        std::fs::create_dir(served.dir().join(folder)).unwrap();
        World {
            served,
            folder: folder.to_owned(),
            state: home.path().join("state"),
            home,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            daemon: None,
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Another state directory, for the next mount.
    pub(crate) fn set_state(&mut self, dir: &Path) {
        self.state = dir.to_owned();
    }

    pub(crate) fn served(&self) -> &'a Served {
        self.served
    }

    /// A file beside the mountpoint.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Mounts; `false` if a failpoint ended the process before the mount was ready.
    pub(crate) fn mount(&mut self, failpoint: Option<&str>) -> bool {
        let socket = self.home.path().join("notify");
        drop(std::fs::remove_file(&socket));
        let notify = UnixDatagram::bind(&socket).unwrap();
        (notify.set_read_timeout(Some(Duration::from_millis(5)))).unwrap();
        let log = (File::options().create(true).append(true))
            .open(self.home.path().join("log"))
            .unwrap();
        let config = self.home.path().join("config.toml");
        std::fs::write(&config, "").unwrap();
        let source = format!(
            "proget+http://{}/endpoints/files/{}",
            self.served.address, self.folder
        );
        let mut command = assetfs();
        command
            .args(["mount", "-f", &source])
            .arg(self.root())
            .arg(format!("--state-dir={}", self.state.display()))
            .arg(format!("--config={}", config.display()))
            .args(["--part-size=64K", "--stall-timeout=5s", "--log-level=info"])
            .args(&self.flags)
            .env("HOME", self.home.path())
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(failpoint) = failpoint {
            command.env("ASSETFS_FAILPOINT", failpoint);
        }
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Ok(n) = notify.recv(&mut buffer)
                && buffer[..n].starts_with(b"READY=1")
            {
                self.daemon = Some(child);
                return true;
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(was_killed(status), "{status}: {}", self.log());
                self.detach();
                return false;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("the mount is not ready: {}", self.log());
            }
        }
    }

    /// SIGKILL, unless it has ended by itself; the dead mount is taken out of the tree.
    pub(crate) fn kill(&mut self) {
        self.kill_only();
        self.detach();
    }

    /// SIGKILL, and the dead mount stays.
    pub(crate) fn kill_only(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Whether a failpoint has ended it; to be asked when something failed.
    pub(crate) fn is_dead(&mut self) -> bool {
        let Some(daemon) = &mut self.daemon else {
            return true;
        };
        // What fails does so when its last descriptor is closed: just before it can be waited for.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if let Some(status) = daemon.try_wait().unwrap() {
                assert!(was_killed(status), "{status}: {}", self.log());
                self.daemon = None;
                self.detach();
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// Takes a dead mount out of the tree.
    fn detach(&self) {
        let detached = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
        if detached == Err(rustix::io::Errno::PERM) {
            let mut command = Command::new("fusermount3");
            drop(command.arg("-uz").arg(self.root()).status());
        }
    }

    /// `assetfs umount`; `false` if a failpoint ended the mount meanwhile.
    pub(crate) fn umount(&mut self) -> bool {
        let root = self.root();
        // A process that is just being started may still hold what it inherited.
        for _ in 0..100 {
            let umount = assetfs()
                .args(["umount", "--timeout=60s"])
                .arg(&root)
                .output();
            let umount = umount.unwrap();
            let words = String::from_utf8_lossy(&umount.stderr).into_owned();
            // 3: some of it stays in the spool, which is for the judge to say.
            if umount.status.success() || umount.status.code() == Some(3) {
                let daemon = self.daemon.take();
                let status = daemon.expect("a mount").wait().unwrap();
                if was_killed(status) {
                    // Killed after its last word: whatever it was, it was said.
                    self.detach();
                    return false;
                }
                assert!(
                    status.code().is_some_and(|code| code == 0 || code == 3),
                    "{status}"
                );
                return true;
            }
            if self.gone_soon(&words) {
                return false;
            }
            assert!(words.contains("files open"), "{words}\n{}", self.log());
        }
        panic!("something keeps files open on the mount");
    }

    fn gone_soon(&mut self, words: &str) -> bool {
        !words.contains("files open") && self.is_dead()
    }

    /// `assetfs wait` for everything below the mountpoint; whether it said that all is well.
    pub(crate) fn wait(&self) -> bool {
        let mut command = assetfs();
        command.args(["wait", "--timeout=60s"]).arg(self.root());
        command.output().unwrap().status.success()
    }

    /// A program that works on the mount.
    pub(crate) fn client(&self) -> Client {
        Client::start(&self.root())
    }

    /// What the server has in the folder.
    pub(crate) fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for row in std::fs::read_dir(self.served.dir().join(&self.folder)).unwrap() {
            let row = row.unwrap();
            let name = row.file_name().into_string().unwrap();
            assert!(row.path().is_file(), "{name} is no file");
            found.insert(name, std::fs::read(row.path()).unwrap());
        }
        found
    }

    /// Somebody else replaces a file, by a request of their own.
    pub(crate) fn foreign(&self, name: &str, content: &[u8]) {
        let mut stream = TcpStream::connect(&self.served.address).unwrap();
        let head = format!(
            "POST /endpoints/files/content/{}/{name} HTTP/1.1\r\nHost: {}\r\nX-ApiKey: {KEY}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.folder,
            self.served.address,
            content.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(content).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }

    /// What is in the spool, by its records; caches are nobody's.
    pub(crate) fn spooled(&self) -> Vec<Left> {
        let mut left = Vec::new();
        let mut dirs = vec![self.state.join("spool")];
        while let Some(dir) = dirs.pop() {
            for row in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = row.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|ending| ending == "json") {
                    let text = std::fs::read(&path).unwrap();
                    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    let mut content =
                        std::fs::read(path.with_extension("data")).unwrap_or_default();
                    content.truncate(record["size"].as_u64().unwrap() as usize);
                    left.push(Left {
                        class: record["class"].as_str().unwrap().to_owned(),
                        path: record["target"]["path"].as_str().unwrap().to_owned(),
                        content,
                    });
                }
            }
        }
        left
    }

    /// How many files the spool has promised, also where a power cut has damaged other records.
    pub(crate) fn acknowledged(&self) -> usize {
        let mut dirs = vec![self.state.join("spool")];
        let mut found = 0;
        while let Some(dir) = dirs.pop() {
            for row in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = row.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|ending| ending == "json") {
                    let text = std::fs::read(&path).unwrap();
                    let record = serde_json::from_slice::<serde_json::Value>(&text);
                    found += usize::from(record.is_ok_and(|r| r["class"] == "acknowledged"));
                }
            }
        }
        found
    }

    /// What the mounts have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.kill();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(self.root().to_str().unwrap()) {
            self.home.disable_cleanup(true);
        }
    }
}

fn was_killed(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(9)
}

/// What `write SEED LENGTH` writes: no two seeds have a block in common, no two places look alike.
pub(crate) fn content(seed: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=len / 16)
        .flat_map(|i| format!("{seed:08}{i:07}\n").into_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

/// The client's side of [`content`] and of [`super::model::Op`].
const CLIENT: &str = r#"
import errno, os, sys
root = sys.argv[1] + '/'
fds = {}
HOW = {
    'new': os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    'cut': os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    'append': os.O_WRONLY | os.O_APPEND,
    'in': os.O_RDWR,
}
def content(seed, size):
    return b''.join(b'%08d%07d\n' % (seed, i) for i in range(size // 16 + 1))[:size]
def do(op, a):
    if op == 'open':
        fds[a[0]] = os.open(root + a[1], HOW[a[2]], 0o644)
    elif op == 'write':
        os.write(fds[a[0]], content(int(a[1]), int(a[2])))
    elif op == 'pwrite':
        os.pwrite(fds[a[0]], content(int(a[2]), int(a[3])), int(a[1]))
    elif op == 'size':
        os.ftruncate(fds[a[0]], int(a[1]))
    elif op == 'fsync':
        os.fsync(fds[a[0]])
    elif op == 'close':
        os.close(fds.pop(a[0]))
    elif op == 'rename':
        os.rename(root + a[0], root + a[1])
    elif op == 'chmod':
        os.chmod(root + a[0], int(a[1]))
    elif op == 'unlink':
        os.unlink(root + a[0])
    elif op == 'read':
        with open(root + a[0], 'rb') as f:
            return f.read().hex()
    return ''
for line in sys.stdin:
    op, *a = line.split()
    try:
        print('ok', do(op, a), flush=True)
    except OSError as e:
        print(errno.errorcode[e.errno], flush=True)
"#;

/// A program that carries out one line after the other.
pub(crate) struct Client {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Client {
    fn start(root: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-S", "-E", "-c", CLIENT])
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Client { child, out }
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// What the line came to, or the name of its errno.
    pub(crate) fn hear(&mut self) -> Result<String, String> {
        let mut answer = String::new();
        self.out.read_line(&mut answer).unwrap();
        match answer.trim_end().split_once(' ') {
            Some(("ok", more)) => Ok(more.to_owned()),
            _ if answer.trim_end() == "ok" => Ok(String::new()),
            _ => Err(answer.trim_end().to_owned()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
