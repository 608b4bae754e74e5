//! Points at which the process ends as by `kill -9`, for the tests that prove what a crash leaves behind.
//!
//! Only in builds with debug assertions: a release binary has none of this. What it can do, a
//! `kill -9` by the same user can do as well. Knows nothing of who crosses a point, or why.
//!
//! `ASSETFS_FAILPOINT` says which: `spool:17` ends the process just before the 17th change of the
//! spool, `http:5` at the fifth crossing of HTTP (before a request is sent, or when its answer has
//! come and nobody has looked at it yet), `count:FILE` appends a line per crossing to FILE.

/// What is counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Each change of the spool on the local disk.
    Spool,
    /// Requests sent and answers received.
    Http,
}

/// `what` is about to be done.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn cross(_group: Group, _what: impl std::fmt::Display) {}

#[cfg(debug_assertions)]
pub(crate) use on::cross;

#[cfg(debug_assertions)]
mod on {
    use super::Group;
    use std::fmt::Display;
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    const VARIABLE: &str = "ASSETFS_FAILPOINT";

    #[derive(Debug)]
    enum Plan {
        Kill { group: Group, left: AtomicU64 },
        Count(File),
    }

    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

    /// `what` is about to be done.
    pub(crate) fn cross(group: Group, what: impl Display) {
        if let Some(plan) = PLAN.get_or_init(plan) {
            plan.cross(group, &what);
        }
    }

    /// A misspelt plan is no plan: the test that wrote it notices that nothing happens.
    fn plan() -> Option<Plan> {
        let text = std::env::var(VARIABLE).ok()?;
        let (word, rest) = text.split_once(':')?;
        let group = match word {
            "spool" => Group::Spool,
            "http" => Group::Http,
            "count" => {
                let file = File::options().create(true).append(true).open(rest);
                return file.ok().map(Plan::Count);
            }
            _ => return None,
        };
        let left = AtomicU64::new(rest.parse().ok()?);
        Some(Plan::Kill { group, left })
    }

    impl Plan {
        fn cross(&self, crossed: Group, what: &dyn Display) {
            match self {
                Plan::Kill { group, left } if *group == crossed => {
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        eprintln!("ASSETFS_FAILPOINT: killed before {what}");
                        let _ = rustix::process::kill_process(
                            rustix::process::getpid(),
                            rustix::process::Signal::KILL,
                        );
                    }
                }
                Plan::Kill { .. } => {}
                Plan::Count(file) => {
                    let line = format!("{crossed:?} {what}\n").to_lowercase();
                    let _ = (&*file).write_all(line.as_bytes());
                }
            }
        }
    }
}
