//! A store, a mount of it by the real command, and ways to act and to look:
//!
//! ```ignore
//! given().part_size("64K").on_server("a", b"x").mounted(|m| {
//!     m.sh("cp $M/a $M/b");
//!     assert_eq!(m.stored("b"), Some(b"x".to_vec()));
//! });
//! ```
//!
//! Each has its own server, mountpoint and state directory. The mount ends whatever becomes of the test,
//! and a test that hangs is ended by force.

use super::tls::Authority;
use assetfs::serve::{Api, ENTITY, Rule, Server, Settings};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The key that the server wants; it must appear nowhere.
pub const KEY: &str = "k3y-that-nobody-may-see";

/// The command.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_assetfs");

/// Within this everything that a test waits for must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);

/// What a test begins with.
pub struct Given {
    server: Settings,
    settings: Vec<(String, String)>,
    files: Vec<(String, Vec<u8>)>,
    key_from: Option<&'static str>,
    tls: Option<&'static str>,
    leaves: bool,
    descriptors: Option<u32>,
    limit: Duration,
}

/// A server with nothing on it, and a mount with short waits.
pub fn given() -> Given {
    let mut server = Settings::new("");
    server.key = Some(KEY.to_owned());
    Given {
        server,
        settings: Vec::new(),
        files: Vec::new(),
        key_from: None,
        tls: None,
        leaves: false,
        descriptors: None,
        limit: LIMIT,
    }
}

/// An IoT File Service with nothing on it, entered by application credentials.
pub fn given_iot() -> Given {
    let mut given = given();
    given.server.api = Api::Iotfile;
    given.server.name = ENTITY.to_owned();
    given.server.key = None;
    given.server.login = Some(("id".to_owned(), KEY.to_owned()));
    given
}

/// A Box account with nothing on it, entered by client credentials.
pub fn given_box() -> Given {
    let mut given = given();
    given.server.api = Api::Box;
    given.server.key = None;
    given.server.login = Some(("id".to_owned(), KEY.to_owned()));
    given.server.boxcom.retry_after = 0;
    given
}

/// The variables with the credentials for a server.
fn variables(api: Api) -> Vec<(&'static str, &'static str)> {
    match api {
        Api::Proget => vec![("ASSETFS_API_KEY", KEY)],
        Api::Iotfile => vec![
            ("ASSETFS_CLIENT_ID", "id"),
            ("ASSETFS_CLIENT_SECRET", KEY),
            ("ASSETFS_APP_NAME", "assetfs"),
            ("ASSETFS_APP_VERSION", "1.0.0"),
            ("ASSETFS_HOST_TENANT", "host"),
            ("ASSETFS_USER_TENANT", "user"),
        ],
        Api::Box => vec![
            ("ASSETFS_CLIENT_ID", "id"),
            ("ASSETFS_CLIENT_SECRET", KEY),
            ("ASSETFS_SUBJECT", "enterprise:5"),
        ],
    }
}

impl Given {
    /// Another server, as it starts.
    pub fn server(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.server);
        self
    }

    /// A setting of the mount, by its key.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn part_size(self, size: &str) -> Self {
        self.with("part_size", size)
    }

    /// Somebody else put this on the server before.
    pub fn on_server(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.files
            .push((path.to_owned(), content.as_ref().to_vec()));
        self
    }

    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.server.rules.extend(rules);
        self
    }

    /// The configuration file names where the key is (`api_key_file = "$KEY"`), in place of the variable.
    pub fn key_from(mut self, line: &'static str) -> Self {
        self.key_from = Some(line);
        self
    }

    /// The server is reached by TLS alone, with a certificate for `name`; `ca_file` is the authority's.
    pub fn tls(mut self, name: &'static str) -> Self {
        self.tls = Some(name);
        self
    }

    /// The test leaves something in the spool, and umount may say so.
    pub fn leaves_unsent(mut self) -> Self {
        self.leaves = true;
        self
    }

    /// The mount's process may have so many files open.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// For a test that is long by nature.
    pub fn at_most(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs `test` on the mount, and ends it well.
    pub fn mounted(self, test: impl FnOnce(&Mount)) {
        if !has_fuse() {
            return;
        }
        let (leaves, limit) = (self.leaves, self.limit);
        let mount = self.start();
        let done = mount.watched(limit, || {
            catch_unwind(AssertUnwindSafe(|| {
                test(&mount);
                mount.end(leaves);
            }))
        });
        if let Err(why) = done {
            eprintln!("--- the mount's last words\n{}", tail(&mount.log()));
            drop(mount);
            resume_unwind(why);
        }
    }

    fn start(mut self) -> Mount {
        let dir = tempfile::tempdir().unwrap();
        for name in ["server", "mnt", "state", "here"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        self.server.dir = dir.path().join("server");
        for (path, content) in &self.files {
            let path = self.server.dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let rt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = rt.block_on(Server::start(self.server.clone())).unwrap();
        self.server.listen = server.addr();
        let mut source = match self.server.api {
            Api::Proget => format!("proget+http://{}/endpoints/files", server.addr()),
            Api::Iotfile => format!("iotfile+http://{}/{ENTITY}", server.addr()),
            Api::Box => "box:".to_owned(),
        };
        if self.server.api == Api::Box {
            let at = format!("http://{}", server.addr());
            let urls = [
                ("api_url", "2.0"),
                ("upload_url", "api/2.0"),
                ("token_url", "oauth2/token"),
            ];
            for (key, path) in urls {
                self = self.with(key, &format!("{at}/{path}"));
            }
        }
        if let Some(name) = self.tls {
            let authority = Authority::new(dir.path());
            let front = rt.block_on(authority.front(name, server.addr()));
            source = front.source();
            self = self.with("ca_file", authority.file().to_str().unwrap());
        }
        let key = dir.path().join("key");
        private(&key, KEY);
        let line = self.key_from.unwrap_or_default();
        let line = line.replace("$KEY", key.to_str().unwrap());
        std::fs::write(dir.path().join("config.toml"), line).unwrap();
        let mount = Mount {
            rt,
            source,
            key_in_variable: self.key_from.is_none(),
            server: Mutex::new(Some(server)),
            settings: self.server,
            flags: self.settings,
            descriptors: self.descriptors,
            daemon: Mutex::new(None),
            dir,
        };
        mount.mount();
        mount
    }
}

/// Whether the tests that mount can run; says so if not.
pub fn has_fuse() -> bool {
    let has = (File::options().read(true).write(true))
        .open("/dev/fuse")
        .is_ok();
    if !has {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no /dev/fuse");
        skipped("no /dev/fuse");
    }
    has
}

/// Says that a test did not run. Past `eprintln!`, which the harness keeps to itself of a test that passes.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("SKIPPED: {name}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Whether the long tests were asked for.
pub fn all() -> bool {
    std::env::var_os("ASSETFS_TEST_ALL").is_some()
}

/// A mount under test.
pub struct Mount {
    pub(super) rt: Runtime,
    pub(super) server: Mutex<Option<Server>>,
    pub(super) settings: Settings,
    source: String,
    key_in_variable: bool,
    flags: Vec<(String, String)>,
    descriptors: Option<u32>,
    daemon: Mutex<Option<Child>>,
    dir: tempfile::TempDir,
}

/// A program that is spoken to.
pub struct Talk {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Talk {
    /// Says a line and waits for the answer.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        self.out.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "it ended");
    }

    /// Lets it end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Ended {
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It failed, and said these words.
    pub fn refused(&self, words: &str) {
        assert!(!self.status.success(), "{self:?}");
        assert!(
            self.err.to_lowercase().contains(&words.to_lowercase()),
            "wanted {words}: {self:?}"
        );
    }
}

// The mount.
impl Mount {
    fn command(&self) -> Command {
        let mut command = Command::new("prlimit");
        match self.descriptors {
            Some(most) => drop(command.args([&format!("--nofile={most}:{most}"), PROGRAM])),
            None => command = Command::new(PROGRAM),
        }
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("RUST_BACKTRACE", "1");
        if self.key_in_variable {
            command.envs(variables(self.settings.api));
        }
        command
    }

    /// The arguments of `assetfs mount`.
    pub fn mount_args(&self) -> Vec<String> {
        let mut args = vec![
            "mount".to_owned(),
            self.source.clone(),
            self.root().display().to_string(),
            format!("--state-dir={}", self.dir.path().join("state").display()),
            format!("--config={}", self.dir.path().join("config.toml").display()),
        ];
        let mut defaults = vec![("log_level", "debug"), ("stall_timeout", "5s")];
        defaults.retain(|(key, _)| self.flags.iter().all(|(other, _)| other != key));
        for (key, value) in defaults {
            args.push(format!("--{}={value}", key.replace('_', "-")));
        }
        for (key, value) in &self.flags {
            args.push(format!("--{}={value}", key.replace('_', "-")));
        }
        args
    }

    /// Mounts; returns when the mount answers.
    pub fn mount(&self) {
        let socket = self.dir.path().join("notify");
        drop(std::fs::remove_file(&socket));
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let log = (File::options().create(true).append(true))
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut child = (self.command())
            .args(self.mount_args())
            .arg("-f")
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut buffer = [0; 4096];
        let begun = Instant::now();
        loop {
            if let Ok(n) = notify.recv(&mut buffer)
                && buffer[..n].starts_with(b"READY=1")
            {
                break;
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the mount ended, {status}: {}", self.log());
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("the mount is not ready: {}", self.log());
            }
        }
        *self.daemon.lock().unwrap() = Some(child);
    }

    /// Runs another command of ours.
    pub fn assetfs(&self, args: &[&str]) -> Ended {
        Ended::of(self.command().args(args).output().unwrap())
    }

    /// [`Mount::try_unmount`], again while a process that another test is just starting still holds what it
    /// inherited from here.
    pub fn unmount(&self) -> (Ended, Option<i32>) {
        let free = |(ended, _): &(Ended, _)| !ended.err.contains("files open");
        let mut tries = (0..100).map(|_| self.try_unmount());
        tries.find(free).expect("nobody has files open there")
    }

    /// `assetfs umount` in the same way, of a mount in the background.
    pub fn umount_background(&self) -> Ended {
        let mut tries = (0..100).map(|_| self.assetfs(&["umount", self.root().to_str().unwrap()]));
        tries
            .find(|ended| !ended.err.contains("files open"))
            .expect("nobody has files open there")
    }

    /// `assetfs umount`, and the exit status of the mount's process.
    pub fn try_unmount(&self) -> (Ended, Option<i32>) {
        let ended = self.assetfs(&["umount", "--timeout=60s", self.root().to_str().unwrap()]);
        let status = if ended.status.success() || ended.status.code() == Some(3) {
            self.wait_for_end()
        } else {
            None
        };
        (ended, status)
    }

    pub fn remount(&self) {
        let (ended, status) = self.unmount();
        assert!(
            ended.status.success() && status == Some(0),
            "{ended:?} {status:?}"
        );
        self.mount();
    }

    /// A signal to the mount's process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let daemon = self.daemon.lock().unwrap();
        let id = daemon.as_ref().expect("a mount").id();
        let pid = rustix::process::Pid::from_raw(id as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills the mount's process and takes the dead mount out of the tree.
    pub fn crash(&self) {
        self.by_force();
        *self.daemon.lock().unwrap() = None;
    }

    /// Waits until the mount's process ends.
    pub fn wait_for_end(&self) -> Option<i32> {
        let mut daemon = self.daemon.lock().unwrap().take().expect("a mount");
        let status = daemon.wait().unwrap();
        status.code()
    }

    fn end(&self, leaves: bool) {
        if self.daemon.lock().unwrap().is_none() {
            return;
        }
        let (ended, status) = self.unmount();
        assert!(!self.log().contains(KEY), "the log shows the key");
        assert!(!self.log().contains("panicked"), "the mount panicked");
        if !leaves {
            assert!(ended.status.success(), "{ended:?}");
            assert_eq!(status, Some(0), "{ended:?}");
            assert_eq!(self.spooled(), Vec::<String>::new(), "left in the spool");
        }
    }

    /// Runs `work`; ends the mount by force when it takes longer than `limit`.
    fn watched<T>(&self, limit: Duration, work: impl FnOnce() -> T) -> T {
        let (done, wait): (Sender<()>, _) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    eprintln!("TOO LONG: the mount is ended by force after {limit:?}");
                    self.by_force();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// The end of everything that may hang on it.
    fn by_force(&self) {
        if let Ok(mut daemon) = self.daemon.try_lock()
            && let Some(daemon) = daemon.as_mut()
        {
            drop(daemon.kill());
            drop(daemon.wait());
        }
        let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
    }

    /// The file that [`Given::key_from`] names holds another key from now on.
    pub fn write_key(&self, key: &str) {
        private(&self.dir.path().join("key"), key);
    }

    /// A folder of the test's own, outside of the mount and the served folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the mount has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Data files in the spool.
    pub fn spooled(&self) -> Vec<String> {
        fn below(dir: &Path, found: &mut Vec<String>) {
            for row in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if row.path().is_dir() {
                    below(&row.path(), found);
                } else if row.path().extension().is_some_and(|e| e == "data") {
                    found.push(row.path().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        below(&self.dir.path().join("state"), &mut found);
        found
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.by_force();
        // Never remove what is below a mountpoint that is still one.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(self.root().to_str().unwrap()) {
            self.dir.disable_cleanup(true);
        }
    }
}

// Acting on it.
impl Mount {
    /// The mountpoint.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// A path in the mount.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// A path in a local folder of the test, the working directory of [`Mount::run`].
    pub fn here(&self, path: &str) -> PathBuf {
        self.dir.path().join("here").join(path)
    }

    /// Makes a local file.
    pub fn make(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.here(path);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.here(""))
            .env("M", self.root())
            .env("PATH", search_path())
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script; `$M` is the mount.
    pub fn run(&self, script: &str) -> Ended {
        Ended::of(self.shell(script).output().unwrap())
    }

    /// Runs a script that must succeed, and returns what it printed.
    pub fn sh(&self, script: &str) -> String {
        let ended = self.run(script);
        assert!(
            ended.status.success(),
            "{script}\n{}\n{}",
            ended.out,
            ended.err
        );
        ended.out.trim_end().to_owned()
    }

    /// Starts a script that reads lines and answers each with one: a process that holds files open while
    /// the test starts others (each of those closes what it inherits from here).
    pub fn talk(&self, script: &str) -> Talk {
        let mut child = (self.shell(script).stdin(Stdio::piped()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Talk { child, out }
    }

    /// Starts a script in the background.
    pub fn start(&self, script: &str) -> Child {
        (self.shell(script).stdout(Stdio::piped()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits for one that was started.
    pub fn ended(&self, child: Child) -> Ended {
        Ended::of(child.wait_with_output().unwrap())
    }

    /// Runs a Python program; `M` is the mount and `os`, `mmap`, `errno` are there.
    pub fn python(&self, program: &str) -> String {
        let path = self.make(
            "program.py",
            format!(
                "import os, mmap, errno, sys\nM = os.environ['M'] + '/'\n\
                 def fails(what, *args, **kw):\n    try:\n        what(*args, **kw)\n    \
                 except OSError as e:\n        return errno.errorcode[e.errno]\n    return 'ok'\n{program}"
            ),
        );
        self.sh(&format!("python3 {}", path.display()))
    }

    /// The whole content as a program reads it.
    pub fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Writes a whole file; closed, with an answer that std does not tell, when it returns.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.at(path), content).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Writes a whole file from a program that tells which call failed and how: `ok`, `close EIO`.
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) -> String {
        let from = self.make("put", content);
        let program = "import os,sys,errno\nstep='read'\ntry:\n  d=open(sys.argv[1],'rb').read()\n  step='open'\n  \
                       f=os.open(sys.argv[2],os.O_WRONLY|os.O_CREAT|os.O_TRUNC,0o644)\n  step='write'\n  i=0\n  \
                       while i<len(d): i+=os.write(f,d[i:i+1048576])\n  step='close'\n  os.close(f)\n  print('ok')\n\
                       except OSError as e: print(step,errno.errorcode[e.errno])\n";
        let output = (Command::new("python3")
            .env("PATH", search_path())
            .args(["-c", program]))
        .args([from, self.at(path)])
        .output()
        .unwrap();
        Ended::of(output).out.trim_end().to_owned()
    }

    pub fn open(&self, path: &str, flags: rustix::fs::OFlags) -> std::io::Result<File> {
        let fd = rustix::fs::open(
            self.at(path),
            flags | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::from_raw_mode(0o644),
        )?;
        Ok(File::from(fd))
    }

    /// A file for reading and writing, which must exist.
    pub fn update(&self, path: &str) -> File {
        (File::options().read(true).write(true))
            .custom_flags(libc::O_CLOEXEC)
            .open(self.at(path))
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The names in a directory, as `ls` sorts them.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let rows = std::fs::read_dir(self.at(dir)).unwrap_or_else(|e| panic!("{dir}: {e}"));
        let mut names: Vec<String> = rows
            .map(|row| row.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// An extended attribute; empty if it is not there.
    pub fn xattr(&self, path: &str, name: &str) -> String {
        let mut value = vec![0; 4096];
        match rustix::fs::getxattr(self.at(path), name, &mut value[..]) {
            Ok(n) => String::from_utf8_lossy(&value[..n]).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Waits until nothing below `path` is on its way.
    pub fn settle(&self, path: &str) -> Ended {
        self.assetfs(&["wait", "--timeout=60s", self.at(path).to_str().unwrap()])
    }
}

/// The errno of what failed.
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    let error = result.expect_err("it should fail");
    error.raw_os_error().unwrap_or_else(|| panic!("{error}"))
}

/// Writes a file that only its owner may read.
fn private(path: &Path, text: &str) {
    let mut file = (File::options().create(true).write(true).truncate(true))
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The system's programs before anything that only wraps them.
fn search_path() -> String {
    format!(
        "/usr/bin:/bin:{}",
        std::env::var("PATH").unwrap_or_default()
    )
}
