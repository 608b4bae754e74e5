//! The real command, as far as it needs no FUSE: every refusal is one sentence that helps.

#![allow(clippy::unwrap_used)]

mod common;

use common::mount::has_fuse;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A home of its own, an empty mountpoint `m` in it, and no variables of ours.
struct Home {
    dir: tempfile::TempDir,
    vars: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("m")).unwrap();
    Home {
        dir,
        vars: Vec::new(),
    }
}

impl Home {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, name: &str, mode: u32, text: &str) -> Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn config(self, mode: u32, text: &str) -> Self {
        let path = self.path("config.toml").display().to_string();
        self.file("config.toml", mode, text)
            .var("ASSETFS_CONFIG", &path)
    }

    /// Runs the command in the home, called `name`.
    fn called(&self, name: &str, args: &[&str]) -> Ended {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(env!("CARGO_BIN_EXE_assetfs"))
            .arg0(name)
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("ASSETFS_STATE_DIR", self.path("state"))
            .envs(self.vars.iter().cloned())
            .output()
            .unwrap();
        Ended {
            status: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.called("assetfs", args)
    }

    /// Runs `mount SOURCE m ARGS`, which must fail with one sentence that has these words.
    fn refuses(&self, source: &str, args: &[&str], words: &str) -> String {
        let mut all = vec!["mount", source, "m"];
        all.extend(args);
        let ended = self.run(&all);
        // What is no command line at all is 2, as everywhere.
        let status = if ended.err.contains("try '--help'") {
            2
        } else {
            1
        };
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert!(ended.err.contains(words), "wanted: {words}\n{ended:?}");
        assert_eq!(ended.out, "", "{ended:?}");
        ended.err
    }
}

const NOWHERE: &str = "proget+http://127.0.0.1:1/endpoints/files";

#[test]
fn a_word_that_is_no_source_is_answered_with_what_would_be_one() {
    let err = home().refuses(
        "https://h/endpoints/f",
        &[],
        "did you mean proget+https://h/endpoints/f",
    );
    assert_eq!(err.lines().count(), 1, "{err}");
    home().refuses(
        "solar+https://h/api",
        &[],
        "not yet built into this version",
    );
    home().refuses("box://h/a", &[], "no folder of an account");
    home().refuses("files", &[], "has no table [remote.files]");
}

#[test]
fn what_box_needs_is_asked_for_by_its_name() {
    let client = || home().var("ASSETFS_CLIENT_ID", "c");
    client().refuses("box:", &[], "needs a client_secret beside it");
    let client = || client().var("ASSETFS_CLIENT_SECRET", "s3cret");
    let err = client().refuses("box:", &[], "assetfs login box");
    assert!(!err.contains("s3cret"), "{err}");
    let odd = client().var("ASSETFS_SUBJECT", "me");
    odd.refuses("box:", &[], "enterprise:ID or user:ID");
    let flag = ["--api-url=nowhere"];
    home().refuses("box:", &flag, "nowhere is not an address");
    let closed = [
        "--api-url=http://127.0.0.1:1/2.0",
        "--token-url=http://127.0.0.1:1/",
    ];
    home().refuses("box:", &closed, "cannot reach http://127.0.0.1:1/2.0");
}

#[test]
fn an_iotfile_source_says_what_its_credentials_lack() {
    home().refuses("iotfile+https://h/abc", &[], "names no entity");
    if !has_fuse() {
        return;
    }
    let source = "iotfile+http://127.0.0.1:1/0123456789abcdef0123456789abcdef";
    let with_id = || home().var("ASSETFS_CLIENT_ID", "i");
    with_id().refuses(source, &[], "needs a client_secret beside it");
    let with_both = || with_id().var("ASSETFS_CLIENT_SECRET", "hunter2");
    let err = with_both().refuses(source, &[], "app_name is missing");
    assert!(!err.contains("hunter2"), "{err}");
    let with_tenant = with_both().var("ASSETFS_TENANT", "t");
    with_tenant.refuses(source, &[], "give -o token_url=URL");
    let token = home().var("ASSETFS_TOKEN", "t");
    token.refuses(source, &[], "cannot reach 127.0.0.1:1");
}

#[test]
fn unknown_settings_name_the_nearest_known_one_wherever_they_stand() {
    home().refuses(NOWHERE, &["-o", "atr_ttl=3"], "did you mean \"attr_ttl\"?");
    home().refuses(NOWHERE, &["--atr-ttl", "3"], "--attr-ttl");
    home().config(0o644, "atr_ttl = 3").refuses(
        NOWHERE,
        &[],
        "config.toml: key \"atr_ttl\" is not known; did you mean \"attr_ttl\"?",
    );
}

#[test]
fn a_wrong_value_says_what_would_be_right() {
    home().refuses(NOWHERE, &["--memory", "lots"], "4096, 64K, 8M or 1.5G");
    home().var("ASSETFS_STALL_TIMEOUT", "soon").refuses(
        NOWHERE,
        &[],
        "stall_timeout (ASSETFS_STALL_TIMEOUT): \"soon\" is not a time",
    );
}

#[test]
fn a_credential_on_the_command_line_is_refused_and_not_repeated() {
    for args in [["-o", "api_key=hunter2"], ["--api-key", "hunter2"]] {
        let err = home().refuses(NOWHERE, &args, "ASSETFS_API_KEY");
        assert!(!err.contains("hunter2"), "{err}");
    }
}

#[test]
fn files_with_keys_that_others_may_read_are_refused_with_the_command_that_mends_it() {
    let text = "api_key_file = \"key\"\n";
    home().config(0o644, "api_key = \"k\"").refuses(
        NOWHERE,
        &[],
        "config.toml holds a credential and is open to other users: chmod 600 ",
    );
    home()
        .config(0o644, text)
        .file("key", 0o644, "k\n")
        .refuses(NOWHERE, &[], "chmod 600 key");
    home()
        .config(0o644, text)
        .refuses(NOWHERE, &[], "cannot read key");
    home()
        .config(0o644, "api_key_command = \"exit 3\"")
        .refuses(NOWHERE, &[], "api_key_command in ");
}

#[test]
fn a_mountpoint_that_cannot_be_used_is_told_with_what_to_do() {
    let missing = home();
    std::fs::remove_dir(missing.path("m")).unwrap();
    missing.refuses(NOWHERE, &[], "m does not exist: mkdir -p m");
    home()
        .file("m/x", 0o644, "")
        .refuses(NOWHERE, &[], "m is not empty");
    let file = home();
    std::fs::remove_dir(file.path("m")).unwrap();
    file.file("m", 0o644, "")
        .refuses(NOWHERE, &[], "m is not a directory");
    let ended = home().run(&["mount", NOWHERE, "/proc"]);
    assert!(
        ended
            .err
            .contains("/proc is a mount point already (proc on it)"),
        "{ended:?}"
    );
}

#[test]
fn a_demo_folder_must_be_there() {
    home().refuses(
        "demo:nowhere",
        &[],
        "there is no folder nowhere: mkdir -p nowhere",
    );
    home().refuses("demo:.", &[], "which it would show: use another mountpoint");
}

#[test]
fn a_server_that_is_not_there_mounts_nothing() {
    if has_fuse() {
        let err = home().refuses(NOWHERE, &[], "cannot reach 127.0.0.1:1");
        assert_eq!(err.lines().count(), 1, "{err}");
        let err = home().refuses(NOWHERE, &["-f"], "cannot reach 127.0.0.1:1");
        let last = err.lines().last().unwrap_or_default();
        assert!(last.starts_with("assetfs: cannot reach"), "{err}");
    }
}

/// A port of this machine that answers in plain http to whatever comes, for as long as the test runs.
fn plain_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: &TcpStream = &stream;
            let mut hello = [0; 4096];
            // Whoever went away again needs no answer.
            if stream.read(&mut hello).is_ok() {
                drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
            }
        }
    });
    port
}

#[test]
fn https_to_a_port_that_speaks_http_is_told() {
    if !has_fuse() {
        return;
    }
    let at = format!("127.0.0.1:{}", plain_port());
    for source in [
        format!("proget+https://{at}/endpoints/files"),
        format!("iotfile+https://{at}/0123456789abcdef0123456789abcdef"),
    ] {
        let token = home().var("ASSETFS_TOKEN", "t");
        let err = token.refuses(&source, &[], &format!("{at} does not speak https"));
        assert!(err.contains("+http://"), "{err}");
    }
}

#[test]
fn a_remount_is_refused_with_what_to_do_instead() {
    home().refuses(NOWHERE, &["-o", "remount,ro"], "unmount it");
    let ended = home().called("mount.assetfs", &[NOWHERE, "m", "-o", "remount,ro"]);
    assert_eq!(ended.status, Some(32), "{ended:?}");
    assert!(
        ended.err.contains("-o remount is not supported"),
        "{ended:?}"
    );
}

#[test]
fn settings_that_nothing_works_with_are_refused_with_the_smallest_that_does() {
    home().refuses(
        NOWHERE,
        &["-o", "part_size=0"],
        "part_size (-o): \"0\" is too small to work with: at least 64K",
    );
    home().refuses(NOWHERE, &["-o", "memory=1"], "at least 1M");
    home().refuses(NOWHERE, &["--memory", "1"], "at least 1M");
}

#[test]
fn a_table_that_is_wrong_is_no_more_than_a_warning_to_another_mount() {
    let text = "[remote.good]\nsource = \"demo:nowhere\"\n[remote.bad]\nsource = \"demo:nowhere\"\nupload = 1\n";
    let with = || home().config(0o644, text);
    let err = with().refuses("bad", &[], "config.toml: [remote.bad] key \"upload\"");
    assert_eq!(err.lines().count(), 1, "{err}");
    let err = with().refuses("good", &[], "assetfs: there is no folder nowhere");
    assert!(
        err.starts_with("assetfs: warning: ") && err.contains("[remote.bad]"),
        "{err}"
    );
}

#[test]
fn mounts_helper_takes_the_arguments_of_mount() {
    let ended = home().called(
        "/sbin/mount.assetfs",
        &[
            "demo:nowhere",
            "m",
            "-sn",
            "-o",
            "rw,_netdev,nofail,whatever",
        ],
    );
    assert_eq!(ended.status, Some(32), "{ended:?}");
    assert!(
        ended
            .err
            .starts_with("mount.assetfs: there is no folder nowhere"),
        "{ended:?}"
    );
    let ended = home().called("mount.assetfs", &["demo:nowhere", "m", "-o", "whatever"]);
    assert_eq!(ended.status, Some(32), "{ended:?}");
    assert!(ended.err.contains("-o whatever is not known"), "{ended:?}");
}

#[test]
fn the_commands_that_ask_a_mount_say_when_there_is_none() {
    for (args, said) in [
        (["status", "m"], "m is not an assetfs mount"),
        (["umount", "m"], "m is not an assetfs mount"),
        (["wait", "m"], "m is not in an assetfs mount"),
        (
            ["wait", "/etc/passwd"],
            "/etc/passwd is not in an assetfs mount",
        ),
        (["wait", "no"], "no: No such file or directory (os error 2)"),
    ] {
        let ended = home().run(&args);
        assert_eq!(ended.status, Some(1), "{ended:?}");
        assert_eq!(ended.err, format!("assetfs: {said}\n"));
    }
}

#[test]
fn help_groups_settings_and_says_where_credentials_come_from() {
    let ended = home().run(&["mount", "--help"]);
    assert_eq!(ended.status, Some(0));
    for words in [
        "proget+https://HOST/",
        "iotfile+https://GATEWAY/ENTITY",
        "demo:DIR",
        "[remote.NAME]",
        "ProGet:",
        "--part-size",
        "[default: 8M]",
        "ASSETFS_API_KEY",
    ] {
        assert!(ended.out.contains(words), "{words}: {}", ended.out);
    }
    assert!(home().run(&["--version"]).out.starts_with("assetfs 0."));
}

#[test]
fn man_pages_are_written_for_every_command() {
    let home = home();
    assert_eq!(home.run(&["man", "man1"]).status, Some(0));
    for page in [
        "assetfs.1",
        "assetfs-mount.1",
        "assetfs-umount.1",
        "assetfs-status.1",
    ] {
        assert!(home.path("man1").join(page).exists(), "{page}");
    }
}

#[test]
fn completions_are_printed() {
    let ended = home().run(&["completions", "bash"]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains("_assetfs"), "{}", ended.out);
}
