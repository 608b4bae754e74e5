//! The spools of this user: those of running mounts as their processes know them, the others from their folders.

use crate::cli::control::{self, Answer, Client, Request, Stay, unexpected};
use crate::cli::{env, eprintln_safe, mountpoint};
use crate::config;
use crate::write::unsent::{Unsent, folders, hold, list};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// The spool of one mount, or one folder that no mount has.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) source: Option<String>,
    pub(super) mountpoint: Option<PathBuf>,
    /// Where its process listens.
    pub(super) socket: Option<PathBuf>,
    pub(super) folders: Vec<PathBuf>,
    pub(super) unsent: Vec<Unsent>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Spools {
    pub(super) groups: Vec<Group>,
    /// Mountpoints and folders that could not be looked into, and why.
    left_out: Vec<(PathBuf, String)>,
}

/// One version and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) group: &'a Group,
    pub(super) unsent: &'a Unsent,
}

impl Group {
    /// What people call it.
    pub(super) fn title(&self) -> String {
        match (&self.source, &self.mountpoint) {
            (Some(source), Some(on)) => format!("{source} on {}", on.display()),
            _ => format!("{}, not mounted", self.place().display()),
        }
    }

    /// Its mountpoint, else its folder.
    pub(super) fn place(&self) -> &Path {
        let place = self.mountpoint.as_ref().or(self.folders.first());
        place.map_or(Path::new(""), PathBuf::as_path)
    }
}

impl Found<'_> {
    /// What people call it.
    pub(super) fn shown(&self) -> String {
        match (&self.unsent.path, &self.group.mountpoint) {
            (Some(path), Some(on)) => format!("{}{path}", on.display()),
            _ => self.unsent.name().to_owned(),
        }
    }
}

impl Spools {
    /// Looks at the spools of all mounts of this user, and at those below the state directory; if one is
    /// given, at these alone.
    ///
    /// # Errors
    /// A sentence if it is not known where that is.
    pub(super) fn look(given: Option<&Path>) -> Result<Self, String> {
        let state_dir = config::state_dir_for(given, &env())?;
        let state_dir = std::path::absolute(&state_dir)
            .map_err(|why| format!("{}: {why}", state_dir.display()))?;
        // As the processes know it, whatever links lead there.
        let state_dir = std::fs::canonicalize(&state_dir).unwrap_or(state_dir);
        let mut spools = Spools {
            groups: Vec::new(),
            left_out: Vec::new(),
        };
        let mounts = match given {
            Some(_) => Vec::new(),
            None => mountpoint::own()?,
        };
        for mount in &mounts {
            match control::attribute(&mount.mountpoint) {
                // A dead one, whose spool is on the disk.
                Err(Errno::NOTCONN) => {}
                _ => {
                    let stay = control::socket_of(&mount.mountpoint)
                        .and_then(|socket| ask(socket, &mount.mountpoint));
                    match stay {
                        Ok(group) => spools.add(group),
                        Err(why) => spools.left_out.push((mount.mountpoint.clone(), why)),
                    }
                }
            }
        }
        // A process whose mount is elsewhere, or gone already, still has its spool.
        let sockets = std::fs::read_dir(state_dir.join("run"));
        for socket in sockets.into_iter().flatten().flatten() {
            let socket = socket.path();
            if !spools
                .groups
                .iter()
                .any(|group| group.socket.as_ref() == Some(&socket))
                && let Ok(group) = ask(socket, &state_dir)
            {
                spools.add(group);
            }
        }
        for folder in folders(&state_dir.join("spool")) {
            if !spools.groups.iter().any(|group| group.has(&folder)) {
                spools.look_into(folder);
            }
        }
        Ok(spools)
    }

    fn add(&mut self, new: Group) {
        let known = |group: &Group| group.folders == new.folders;
        if !self.groups.iter().any(known) {
            self.groups.push(new);
        }
    }

    /// Says what could not be looked into of what `wanted` may mean; whether there is anything.
    pub(super) fn tell_left_out(&self, wanted: Option<&Wanted>) -> bool {
        let may_be = |place: &Path| wanted.is_none_or(|wanted| wanted.full.starts_with(place));
        let mut told = false;
        for (_, why) in self.left_out.iter().filter(|(place, _)| may_be(place)) {
            eprintln_safe(&format!("assetfs: {why}"));
            told = true;
        }
        told
    }

    /// A folder that no mount has named.
    fn look_into(&mut self, folder: PathBuf) {
        // Held for the moment of the question alone: a mount that starts now wants it.
        let free = hold(&folder).map(|lock| lock.is_some());
        match free.and_then(|free| free.then(|| list(&folder)).transpose()) {
            Ok(Some(unsent)) => self.groups.push(Group {
                source: None,
                mountpoint: None,
                socket: None,
                folders: vec![folder],
                unsent,
            }),
            Ok(None) => {
                let shown = folder.display();
                let why = format!("{shown} is in use by a process that does not answer");
                self.left_out.push((folder, why));
            }
            Err(why) => self.left_out.push((folder, why.to_string())),
        }
    }

    /// Every version.
    pub(super) fn all(&self) -> impl Iterator<Item = Found<'_>> {
        self.groups.iter().flat_map(|group| {
            let unsent = group.unsent.iter();
            unsent.map(move |unsent| Found { group, unsent })
        })
    }

    /// The one version that `which` names.
    ///
    /// # Errors
    /// A sentence if there is none, or there are several.
    pub(super) fn one(&self, which: &Path) -> Result<Found<'_>, String> {
        let wanted = Wanted::new(which);
        let found: Vec<Found> = self
            .all()
            .filter(|found| wanted.is(found.group, found.unsent))
            .collect();
        match found[..] {
            [one] => Ok(one),
            [] => {
                self.tell_left_out(Some(&wanted));
                Err(format!(
                    "nothing of {} is unsent: assetfs unsent list",
                    which.display()
                ))
            }
            _ => {
                let ids: Vec<_> = found.iter().map(|one| one.unsent.id.as_str()).collect();
                Err(format!(
                    "there are {} of {}: name one of {}",
                    ids.len(),
                    which.display(),
                    ids.join(", ")
                ))
            }
        }
    }
}

impl Group {
    fn has(&self, folder: &Path) -> bool {
        let full = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.folders.iter().any(|own| full(own) == full(folder))
    }
}

/// Asks a process what stays in its spool.
fn ask(socket: PathBuf, mountpoint: &Path) -> Result<Group, String> {
    match Client::ask_at(&socket, mountpoint, &Request::Unsent)?.next()? {
        Some(Answer::Unsent(Stay {
            source,
            mountpoint,
            folders,
            unsent,
        })) => Ok(Group {
            source: Some(source),
            mountpoint: Some(mountpoint),
            socket: Some(socket),
            folders,
            unsent,
        }),
        other => Err(unexpected(mountpoint, other.as_ref())),
    }
}

/// What a person names: an id, a path below a mountpoint, a path in a mount.
#[derive(Debug)]
pub(super) struct Wanted {
    word: String,
    /// As a path of this machine.
    full: PathBuf,
}

impl Wanted {
    pub(super) fn new(which: &Path) -> Self {
        let full = std::path::absolute(which).unwrap_or_else(|_| which.to_owned());
        // The file itself need not be there, and asking a mount for it would ask its store.
        let full = match (full.parent().map(std::fs::canonicalize), full.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => full,
        };
        Wanted {
            word: which.to_string_lossy().into_owned(),
            full,
        }
    }

    /// The path below the mountpoint of `group`, with a leading `/`; of a path in the mount, and as given.
    fn paths(&self, group: &Group) -> Vec<String> {
        let in_mount = (group.mountpoint.as_deref())
            .and_then(|on| self.full.strip_prefix(on).ok())
            .map(|below| format!("/{}", below.to_string_lossy()));
        let given = format!("/{}", self.word.trim_matches('/'));
        in_mount.into_iter().chain([given]).collect()
    }

    pub(super) fn is(&self, group: &Group, unsent: &Unsent) -> bool {
        let path = unsent.path.as_deref();
        unsent.id == self.word || self.paths(group).iter().any(|own| path == Some(own))
    }

    /// Whether it is that one, or lies below.
    pub(super) fn is_below(&self, group: &Group, unsent: &Unsent) -> bool {
        let Some(path) = unsent.path.as_deref() else {
            return unsent.id == self.word || group.mountpoint.as_ref() == Some(&self.full);
        };
        let below = |own: &String| {
            path.strip_prefix(own.trim_end_matches('/'))
                .is_some_and(|rest| rest.starts_with('/'))
        };
        self.is(group, unsent) || self.paths(group).iter().any(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::unsent::Stays;

    fn group(mountpoint: Option<&str>) -> Group {
        Group {
            source: None,
            mountpoint: mountpoint.map(PathBuf::from),
            socket: None,
            folders: Vec::new(),
            unsent: Vec::new(),
        }
    }

    fn one(path: Option<&str>) -> Unsent {
        Unsent {
            id: "0123abcd-7".into(),
            state: Stays::Refused,
            path: path.map(str::to_owned),
            size: 0,
            at_ms: None,
            error: None,
            data: PathBuf::new(),
        }
    }

    #[test]
    fn a_version_is_named_by_id_by_path_and_by_path_in_the_mount() {
        let file = one(Some("/d/a"));
        for name in ["0123abcd-7", "/d/a", "d/a", "/no/such/mount/d/a"] {
            let wanted = Wanted::new(Path::new(name));
            assert!(wanted.is(&group(Some("/no/such/mount")), &file), "{name}");
        }
        for name in ["0123abcd", "/d", "a", "/no/such/mount/d/aa", "/no/such/d/a"] {
            let wanted = Wanted::new(Path::new(name));
            assert!(!wanted.is(&group(Some("/no/such/mount")), &file), "{name}");
        }
        let elsewhere = Wanted::new(Path::new("/no/such/mount/d/a"));
        assert!(!elsewhere.is(&group(None), &file));
    }

    #[test]
    fn a_list_below_a_path_leaves_out_what_is_beside_it() {
        let mounted = group(Some("/no/such/mount"));
        let is_below =
            |name: &str, file: &Unsent| Wanted::new(Path::new(name)).is_below(&mounted, file);
        let file = one(Some("/d/a"));
        assert!(
            ["/no/such/mount", "/d", "d/a", "/no/such/mount/d"]
                .iter()
                .all(|name| is_below(name, &file))
        );
        assert!(
            ["/no/such/mount/e", "/d/", "/dd"]
                .iter()
                .filter(|name| is_below(name, &file))
                .eq([&"/d/"])
        );
        assert!(is_below("/no/such/mount", &one(None)));
        assert!(!is_below("/d", &one(None)));
    }
}
