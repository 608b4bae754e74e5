//! Mountpoints: whether one can be used, which mounts there are, and how to let go of one.

use super::control;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The type of our mounts in /proc/self/mountinfo.
const FSTYPE: &str = "fuse.assetfs";

/// A line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is.
    pub(super) mountpoint: PathBuf,
    /// What it is, such as `ext4`.
    pub(super) fstype: String,
    /// What is mounted.
    pub(super) source: String,
    /// Who mounted it, where the filesystem is one of a user (FUSE).
    pub(super) user: Option<u32>,
}

impl Mount {
    /// Whether it is one of ours.
    pub(super) fn is_ours(&self) -> bool {
        self.fstype == FSTYPE
    }
}

/// The assetfs mounts of the user who asks. Those of others answer to nobody else.
///
/// # Errors
/// A sentence if /proc is not there.
pub(super) fn own() -> Result<Vec<Mount>, String> {
    let me = rustix::process::getuid().as_raw();
    let mut mounts = mounts()?;
    mounts.retain(|mount| mount.is_ours() && mount.user == Some(me));
    Ok(mounts)
}

/// All mounts that this process sees, in the order they were made.
///
/// # Errors
/// A sentence if /proc is not there.
pub(super) fn mounts() -> Result<Vec<Mount>, String> {
    std::fs::read("/proc/self/mountinfo")
        .map(|text| parse(&text))
        .map_err(|why| format!("cannot read /proc/self/mountinfo: {why}"))
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /mnt rw,noatime master:1 - fuse.x SOURCE rw,user_id=0`.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-")?;
            let options =
                String::from_utf8_lossy(fields.get(dash + 3).copied().unwrap_or_default());
            let mut options = options.split(',');
            Some(Mount {
                mountpoint: OsString::from_vec(unescape(fields.get(4)?)).into(),
                fstype: String::from_utf8_lossy(fields.get(dash + 1)?).into_owned(),
                source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
                user: options
                    .find_map(|option| option.strip_prefix("user_id="))
                    .and_then(|id| id.parse().ok()),
            })
        })
        .collect()
}

/// Space, tab, newline and backslash are `\040` and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The absolute path of a directory that can be mounted over.
///
/// # Errors
/// A sentence that says why not and what to do.
pub(super) fn usable(path: &Path, mounts: &[Mount]) -> Result<PathBuf, String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|why| match Errno::from_io_error(&why) {
        Some(Errno::NOTCONN) => dead(path),
        Some(Errno::NOENT) => format!("{shown} does not exist: mkdir -p {shown}"),
        _ => format!("cannot use {shown}: {why}"),
    })?;
    if !meta.is_dir() {
        return Err(format!(
            "{shown} is not a directory: mount on an empty directory"
        ));
    }
    let full = std::fs::canonicalize(path).map_err(|why| format!("cannot use {shown}: {why}"))?;
    let top = mounts.iter().rev().find(|mount| mount.mountpoint == full);
    match top {
        // The kernel may still know the root's attributes: then only a question tells.
        Some(mount) if mount.is_ours() && control::attribute(&full) == Err(Errno::NOTCONN) => {
            return Err(dead(path));
        }
        Some(mount) if mount.is_ours() => {
            return Err(format!(
                "{} is mounted on {shown} already: assetfs umount {shown}",
                mount.source
            ));
        }
        // systemd's automount waits for us below it; looking inside would wait for ourselves.
        Some(mount) if mount.fstype == "autofs" => return Ok(full),
        Some(mount) => {
            return Err(format!(
                "{shown} is a mount point already ({} on it)",
                mount.fstype
            ));
        }
        None => {}
    }
    let mut entries =
        std::fs::read_dir(&full).map_err(|why| format!("cannot use {shown}: {why}"))?;
    if entries.next().is_some() {
        return Err(format!(
            "{shown} is not empty, and a mount would hide what is in it: use an empty directory"
        ));
    }
    Ok(full)
}

/// The sentence for a path in a mount whose process is gone.
pub(super) fn dead(path: &Path) -> String {
    let mounts = mounts().unwrap_or_default();
    // It cannot be canonicalized: that would ask the dead mount.
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let on = top(&full, &mounts).map_or(full.as_path(), |mount| &mount.mountpoint);
    format!(
        "{0} is a dead mount (Transport endpoint is not connected; its process is gone): \
         fusermount3 -u -z {0}, then mount it again: what was acknowledged and not sent is in the spool and is sent then",
        on.display()
    )
}

/// The mount that `full` is in, if paths mean what they say.
fn top<'a>(full: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    // Of mounts over one another the last one is seen, and `max_by_key` gives the last.
    (mounts
        .iter()
        .filter(|mount| full.starts_with(&mount.mountpoint)))
    .max_by_key(|mount| mount.mountpoint.components().count())
}

/// Whether this machine lets us mount with FUSE.
///
/// # Errors
/// A sentence that says what is missing and how to get it.
pub(super) fn fuse_works(root: bool, allow_other: bool) -> Result<(), String> {
    if let Err(why) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        return Err(match Errno::from_io_error(&why) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
                "there is no /dev/fuse: modprobe fuse (in a container: --device /dev/fuse --cap-add SYS_ADMIN)".to_owned()
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                format!("/dev/fuse may not be opened ({why}): chmod 666 /dev/fuse as root (in a container: --device /dev/fuse --cap-add SYS_ADMIN)")
            }
            _ => format!("cannot open /dev/fuse: {why}"),
        });
    }
    if root {
        return Ok(());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file()) {
        return Err(
            "fusermount3 is not installed: apt install fuse3 (or dnf install fuse3)".to_owned(),
        );
    }
    let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if allow_other && !permits_allow_other(&conf) {
        return Err(
            "allow_other needs a line user_allow_other in /etc/fuse.conf: echo user_allow_other | sudo tee -a /etc/fuse.conf"
                .to_owned(),
        );
    }
    Ok(())
}

fn permits_allow_other(fuse_conf: &str) -> bool {
    fuse_conf
        .lines()
        .any(|line| line.trim() == "user_allow_other")
}

/// Takes the mount out of the tree even though something holds it.
pub(super) fn let_go(mountpoint: &Path) {
    let done = rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    if done.is_err() {
        let status = Command::new("fusermount3")
            .args(["-u", "-z", "-q", "--"])
            .arg(mountpoint)
            .stdin(Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            log::warn!(
                "{} could not be taken out of the tree",
                mountpoint.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(path: &Path, fstype: &str) -> Vec<Mount> {
        vec![Mount {
            mountpoint: path.to_owned(),
            fstype: fstype.to_owned(),
            source: "demo:/x".to_owned(),
            user: None,
        }]
    }

    #[test]
    fn mountinfo_is_read_with_escapes_and_optional_fields() {
        let text =
            b"36 35 98:0 / /mnt/a\\040b rw master:1 shared:2 - fuse.assetfs demo:/x\\134y rw,user_id=7,group_id=8\n\
                     37 35 98:0 / /p rw - proc proc rw\n";
        let mounts = parse(text);
        assert_eq!(mounts[0].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(mounts[0].source, "demo:/x\\y");
        assert_eq!(mounts[0].user, Some(7));
        assert_eq!(mounts[1].fstype, "proc");
        assert_eq!(mounts[1].user, None);
        assert_eq!(mounts.len(), 2);
    }

    #[test]
    fn an_empty_directory_is_usable_and_its_path_becomes_absolute() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().canonicalize().unwrap();
        assert_eq!(usable(&dir.path().join("."), &[]), Ok(full));
    }

    #[test]
    fn what_cannot_be_mounted_over_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().canonicalize().unwrap();
        let missing = usable(&full.join("no"), &[]).unwrap_err();
        assert!(missing.contains("does not exist: mkdir -p"), "{missing}");
        let ours = usable(&full, &mounted(&full, FSTYPE)).unwrap_err();
        assert!(ours.contains("assetfs umount"), "{ours}");
        let other = usable(&full, &mounted(&full, "ext4")).unwrap_err();
        assert!(other.contains("ext4"), "{other}");
        std::fs::write(full.join("f"), "").unwrap();
        let full_dir = usable(&full, &[]).unwrap_err();
        assert!(full_dir.contains("is not empty"), "{full_dir}");
        let file = usable(&full.join("f"), &[]).unwrap_err();
        assert!(file.contains("is not a directory"), "{file}");
    }

    #[test]
    fn an_automount_is_mounted_over_without_looking_inside() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().canonicalize().unwrap();
        std::fs::write(full.join("f"), "").unwrap();
        assert_eq!(usable(&full, &mounted(&full, "autofs")), Ok(full.clone()));
    }

    #[test]
    fn a_path_is_in_the_innermost_mount_above_it() {
        let mut mounts = mounted(Path::new("/"), "ext4");
        mounts.extend(mounted(Path::new("/m"), "fuse"));
        mounts.extend(mounted(Path::new("/mm"), "fuse"));
        for (path, on) in [("/m/d/a", "/m"), ("/m", "/m"), ("/mn", "/")] {
            assert_eq!(
                top(Path::new(path), &mounts),
                mounts.iter().find(|m| m.mountpoint == Path::new(on))
            );
        }
        assert_eq!(top(Path::new("/a"), &[]), None);
    }

    #[test]
    fn a_comment_in_fuse_conf_permits_nothing() {
        assert!(!permits_allow_other("#user_allow_other\nmount_max = 10\n"));
        assert!(permits_allow_other("# x\n  user_allow_other  \n"));
    }
}
