//! Mounts of an ordinary user, through fusermount3: what works, and what stays closed to others. Needs
//! root, to make the users.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::serve::{Server, Settings};
use common::mount::{has_fuse, skipped};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

const KEY: &str = "a-key-of-one-user-alone";

/// One test at a time opens /dev/fuse to everybody, and closes it again.
static ALONE: Mutex<()> = Mutex::new(());

const DEVICE: &str = "/dev/fuse";

/// Two ordinary users, one of them with a home, and a server with a file `old`.
struct Users {
    dir: tempfile::TempDir,
    names: [String; 2],
    mode: u32,
    rt: tokio::runtime::Runtime,
    server: Option<Server>,
    _alone: MutexGuard<'static, ()>,
}

#[derive(Clone, Copy)]
enum Who {
    Owner,
    Other,
    Root,
}
use Who::{Other, Owner, Root};

fn users(test: impl FnOnce(&Users)) {
    if !has_fuse() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        skipped("only root can make users");
        return;
    }
    test(&Users::new());
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

fn mode(path: impl AsRef<Path>) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode()
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

impl Users {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        let names = ["a", "b"].map(|which| format!("assetfs-{}-{which}", std::process::id()));
        let rt = tokio::runtime::Runtime::new().unwrap();
        let mut users = Users {
            names,
            mode: mode(DEVICE),
            rt,
            server: None,
            _alone: alone,
            dir,
        };
        for name in &users.names {
            run(Command::new("useradd").args(["-r", "-M", "-U", "-s", "/bin/sh", name]));
        }
        set_mode(DEVICE, 0o666);
        std::fs::copy(env!("CARGO_BIN_EXE_assetfs"), users.path("assetfs")).unwrap();
        std::fs::create_dir(users.path("served")).unwrap();
        std::fs::write(users.path("served/old"), "old").unwrap();
        let mut settings = Settings::new(users.path("served"));
        settings.key = Some(KEY.to_owned());
        users.server = Some(users.rt.block_on(Server::start(settings)).unwrap());
        let addr = users.server.as_ref().unwrap().addr();
        let home = users.path("home");
        std::fs::create_dir(&home).unwrap();
        let (uid, gid) = users.ids(Owner);
        std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
        users.sh(
            Owner,
            &format!(
                "mkdir -p mnt .config/assetfs; umask 077; printf {KEY} > .config/assetfs/key
             printf '[remote.files]\nsource = \"proget+http://{addr}/endpoints/files\"\n\
             api_key_file = \"~/.config/assetfs/key\"\n' > .config/assetfs/config.toml"
            ),
        );
        users
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// User and group.
    fn ids(&self, who: Who) -> (u32, u32) {
        if matches!(who, Root) {
            return (0, 0);
        }
        let id = |flag: &str| {
            let output = run(Command::new("id").args([flag, self.names[who as usize].as_str()]));
            String::from_utf8(output.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        (id("-u"), id("-g"))
    }

    /// A shell in the home, in which `assetfs` is found, with no umask at all.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-euc", &format!("umask 000\n{script}")])
            .env_clear()
            .env("HOME", self.path("home"))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.dir.path().display()),
            )
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.path("home"));
        command
    }

    /// Runs a script as one of the users: whether it succeeded, and what it printed and said.
    fn runs(&self, who: Who, script: &str) -> (bool, String) {
        let (uid, gid) = self.ids(who);
        let output = self.shell(script).uid(uid).gid(gid).output().unwrap();
        let words = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(words).unwrap())
    }

    fn sh(&self, who: Who, script: &str) -> String {
        let (done, words) = self.runs(who, script);
        assert!(done, "{script}: {words}");
        words
    }

    fn refused(&self, who: Who, script: &str, want: &str) {
        let (done, words) = self.runs(who, script);
        assert!(
            !done && words.contains(want),
            "{script}, wanted {want}: {words}"
        );
    }

    /// Runs a script as root where /etc/fuse.conf is this and all mounts are its own; `$OWNER` and `$OTHER`
    /// before a command run it as that user.
    fn where_fuse_conf_is(&self, text: &str, script: &str) -> (bool, String) {
        let conf = self.path("fuse.conf");
        std::fs::write(&conf, text).unwrap();
        let inside = format!(
            "mount --bind {} /etc/fuse.conf
             trap 'umount -l mnt 2>/dev/null || :' EXIT
             {script}",
            conf.display()
        );
        let r#as = |who| {
            let (uid, gid) = self.ids(who);
            format!("setpriv --reuid={uid} --regid={gid} --clear-groups")
        };
        let mut shell = self.shell("exec unshare -m sh -euc \"$INSIDE\"");
        shell
            .env("INSIDE", inside)
            .env("OWNER", r#as(Owner))
            .env("OTHER", r#as(Other));
        let output = shell.output().unwrap();
        let words = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(words).unwrap())
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        for mnt in ["home/mnt", "closed", "open"].map(|name| self.path(name)) {
            // Only a test that broke leaves something mounted.
            let _ = rustix::mount::unmount(mnt, rustix::mount::UnmountFlags::DETACH);
        }
        set_mode(DEVICE, self.mode & 0o7777);
        for name in &self.names {
            drop(Command::new("userdel").args(["-f", name]).output());
        }
        let _in = self.rt.enter();
        drop(self.server.take());
    }
}

#[test]
fn an_ordinary_user_mounts_copies_and_unmounts() {
    users(|u| {
        assert_eq!(u.sh(Owner, "assetfs mount files mnt"), "files on mnt\n");
        u.sh(
            Owner,
            "head -c 20000000 /dev/urandom > a; cp a mnt/a; cmp a mnt/a",
        );
        u.sh(
            Owner,
            "test \"$(stat -c %u:%g mnt mnt/a | uniq)\" = $(id -u):$(id -g)",
        );
        u.sh(Owner, "cmp a ../served/a");
        assert_eq!(u.sh(Owner, "ls mnt"), "a\nold\n");
        assert!(u.sh(Owner, "assetfs status").contains("everything is sent"));
        u.sh(Owner, "assetfs wait mnt/a mnt");
        u.sh(Owner, "assetfs umount mnt");
        assert_eq!(
            u.sh(Owner, "ls mnt; assetfs status"),
            "nothing is mounted\n"
        );
    });
}

#[test]
fn what_an_ordinary_user_mounts_and_keeps_is_closed_to_others() {
    users(|u| {
        u.sh(Owner, "assetfs mount files mnt; echo kept > mnt/later.part");
        u.refused(Other, "ls mnt", "Permission denied");
        u.refused(Other, "cat mnt/old", "Permission denied");
        u.refused(Other, "assetfs status mnt", "mnt belongs to another user");
        u.refused(Other, "assetfs umount mnt", "mnt belongs to another user");
        u.refused(Other, "ls .local/state/assetfs", "Permission denied");
        u.refused(Other, "cat .config/assetfs/key", "Permission denied");
        // Spool, log and socket, though the umask would let everybody in.
        let all = u.sh(Owner, "cd .local/state/assetfs; find . -type d -o -name '*.data' -o -name '*.sock' -o -name '*.log'");
        for part in [".data\n", ".sock\n", ".log\n", "./spool\n"] {
            assert!(all.contains(part), "{all}");
        }
        assert_eq!(u.sh(Owner, "find .local/state/assetfs -perm /077"), "");
        assert_eq!(
            u.sh(Owner, "find .local/state/assetfs -type d ! -perm 700"),
            ""
        );
        u.sh(Owner, "assetfs umount mnt");
        assert_eq!(u.sh(Owner, "cat ../served/later.part"), "kept\n");
    });
}

#[test]
fn what_others_have_mounted_is_passed_over_and_their_mountpoints_are_refused() {
    users(|u| {
        for (on, more) in [("closed", ""), ("open", "-o allow_other")] {
            let store = format!("../{on}-store");
            u.sh(
                Root,
                &format!("mkdir ../{on} {store}; echo root > {store}/a"),
            );
            let mount = format!("assetfs mount --state-dir ../{on}-state {more}");
            u.sh(Root, &format!("{mount} demo:{store} ../{on}"));
        }
        assert_eq!(u.sh(Owner, "cat ../open/a"), "root\n");
        let without_a_mount = "assetfs status; assetfs unsent list; assetfs unsent retry --all";
        assert_eq!(
            u.sh(Owner, without_a_mount),
            "nothing is mounted\nnothing is unsent\nnothing is unsent\n"
        );
        for on in ["closed", "open"] {
            let whose = format!("{on} belongs to another user");
            for command in ["status", "umount"] {
                u.refused(Owner, &format!("assetfs {command} ../{on}"), &whose);
            }
        }
        u.refused(Owner, "assetfs wait ../closed", "Permission denied");
        u.refused(
            Owner,
            "assetfs wait ../open/a",
            "open belongs to another user",
        );
        u.sh(Owner, "assetfs mount files mnt");
        let shown = u.sh(Owner, "assetfs status");
        assert_eq!(shown.matches(" on ").count(), 1, "{shown}");
        assert!(shown.contains("/home/mnt: everything is sent"), "{shown}");
        let of_root = u.sh(Root, "assetfs status --json");
        for (on, is_there) in [("closed", true), ("open", true), ("home/mnt", false)] {
            let on = u.path(on).display().to_string();
            assert_eq!(
                of_root.contains(&format!("\"{on}\"")),
                is_there,
                "{of_root}"
            );
        }
        u.sh(Owner, "assetfs umount mnt");
        u.sh(Root, "assetfs umount ../closed; assetfs umount ../open");
    });
}

#[test]
fn allow_other_needs_a_line_in_fuse_conf_and_then_lets_others_in() {
    users(|u| {
        let mount = "$OWNER assetfs mount -o allow_other files mnt";
        let (done, words) = u.where_fuse_conf_is("#user_allow_other\n", mount);
        assert!(!done);
        assert_eq!(
            words,
            "assetfs: allow_other needs a line user_allow_other in /etc/fuse.conf: \
             echo user_allow_other | sudo tee -a /etc/fuse.conf\n"
        );
        let (done, words) = u.where_fuse_conf_is(
            "user_allow_other\n",
            &format!("{mount}; $OTHER cat mnt/old; $OWNER assetfs umount mnt"),
        );
        assert!(done, "{words}");
        assert_eq!(words, "files on mnt\nold");
    });
}
