//! `assetfs unsent export`: a version into a local file, whole or not at all.

use crate::cli::eprintln_safe;
use crate::write::unsent::{Export, Stays, Unsent};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Copies `unsent` to `target`; into it, if that is a directory.
///
/// # Errors
/// A sentence if something is there already, or the bytes are not those that were written; nothing is
/// left at the target then.
pub(super) fn export(unsent: &Unsent, target: &Path, force: bool) -> Result<(), String> {
    let target = place(unsent, target);
    let shown = target.display();
    let exists = || format!("{shown} exists: name another file, or give --force");
    if !force && target.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let export = Export::open(unsent).map_err(|why| why.to_string())?;
    let part = Part::new(&target).map_err(|why| format!("cannot write beside {shown}: {why}"))?;
    export.copy_to(&part.file).map_err(|why| why.to_string())?;
    let cannot = |why: std::io::Error| format!("cannot write {shown}: {why}");
    part.file.set_modified(export.modified()).map_err(cannot)?;
    part.file.sync_all().map_err(cannot)?;
    part.become_file(&target, force).map_err(|why| match why {
        Errno::EXIST => exists(),
        why => format!("cannot write {shown}: {why}"),
    })?;
    let note = match unsent.state {
        _ if !export.is_checked() => {
            "not compared, there are no checksums of it; of what was being written only what was written"
        }
        Stays::Torn => "only what was written",
        _ => "",
    };
    if !note.is_empty() {
        eprintln_safe(&format!("assetfs: {shown}: {note}"));
    }
    Ok(())
}

fn place(unsent: &Unsent, target: &Path) -> PathBuf {
    let name = Path::new(unsent.name()).file_name();
    match name.filter(|_| target.is_dir()) {
        Some(name) => target.join(name),
        None => target.to_owned(),
    }
}

/// A file beside the target that goes away unless it becomes that.
struct Part {
    path: PathBuf,
    file: File,
}

impl Part {
    fn new(target: &Path) -> std::io::Result<Self> {
        let name = target.file_name().ok_or(Errno::ISDIR)?.to_string_lossy();
        let name: String = name.chars().take(40).collect();
        let path = target.with_file_name(format!(".{name}.{}", std::process::id()));
        let file = (File::options().write(true).create_new(true))
            .mode(0o600)
            .open(&path)?;
        Ok(Part { path, file })
    }

    fn become_file(&self, target: &Path, force: bool) -> Result<(), Errno> {
        if force {
            return rustix::fs::rename(&self.path, target);
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, flags) {
            // Filesystems without the flag have links, which replace nothing either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::link(&self.path, target)?;
                rustix::fs::unlink(&self.path)
            }
            done => done,
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is gone if it became the target.
        let _ = std::fs::remove_file(&self.path);
    }
}
