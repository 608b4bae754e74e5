//! The values of the settings that say what is promised, and for which names.

use crate::write::{Conflict, Promise};
use globset::{Glob, GlobBuilder};

/// Names under which programs write what they rename when it is whole: rsync, browsers and downloaders,
/// editors, GNOME, restic, borg, git.
pub const TEMP_NAMES: &str = ".*.[A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9];\
*.part;*.partial;*.crdownload;*.tmp;*~;.*.sw[a-px];.*.swpx;4913;.goutputstream-*;*-tmp-*;tmp_obj_*;tmp_pack_*;tmp_idx_*";

/// Patterns of paths with what is promised for them, in order.
#[derive(Clone, Debug, Default)]
pub struct CommitFor(pub Vec<(Glob, Promise)>);

/// Patterns of names.
#[derive(Clone, Debug, Default)]
pub struct Names(pub Vec<Glob>);

/// `close` or `spool`.
pub(super) fn commit(text: &str) -> Result<Promise, String> {
    match text {
        "close" => Ok(Promise::Store),
        "spool" => Ok(Promise::Spool),
        _ => Err(format!("\"{text}\" is not close or spool")),
    }
}

/// `keep-both`, `fail` or `overwrite`.
pub(super) fn conflict(text: &str) -> Result<Conflict, String> {
    match text {
        "keep-both" => Ok(Conflict::KeepBoth),
        "fail" => Ok(Conflict::Fail),
        "overwrite" => Ok(Conflict::Overwrite),
        _ => Err(format!("\"{text}\" is not keep-both, fail or overwrite")),
    }
}

/// `PATTERN=close;PATTERN=spool`. A pattern without a slash matches the last part of a path.
pub(super) fn commit_for(text: &str) -> Result<CommitFor, String> {
    let mut all = Vec::new();
    for rule in rules(text) {
        let (pattern, word) = rule
            .rsplit_once('=')
            .ok_or_else(|| format!("\"{rule}\" is not PATTERN=close or PATTERN=spool"))?;
        let pattern = if pattern.contains('/') {
            pattern.trim_start_matches('/').to_owned()
        } else {
            format!("**/{pattern}")
        };
        all.push((glob(&pattern)?, commit(word)?));
    }
    Ok(CommitFor(all))
}

/// `PATTERN;PATTERN`.
pub(super) fn names(text: &str) -> Result<Names, String> {
    rules(text).map(glob).collect::<Result<_, _>>().map(Names)
}

fn rules(text: &str) -> impl Iterator<Item = &str> {
    text.split(';')
        .map(str::trim)
        .filter(|rule| !rule.is_empty())
}

fn glob(pattern: &str) -> Result<Glob, String> {
    let mut builder = GlobBuilder::new(pattern);
    builder
        .literal_separator(true)
        .build()
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_names_are_those_of_the_programs() {
        let Names(globs) = names(TEMP_NAMES).unwrap();
        let is = |name: &str| {
            globs
                .iter()
                .any(|glob| glob.compile_matcher().is_match(name))
        };
        for name in [
            ".big.iso.AbC123",
            "x.part",
            "f~",
            ".f.swp",
            ".f.swpx",
            "4913",
            ".goutputstream-AB12",
            "0a-tmp-77",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "big.iso",
            "a.tmpl",
            ".bashrc",
            "index.lock",
            "data.db-journal",
        ] {
            assert!(!is(name), "{name}");
        }
    }

    #[test]
    fn patterns_of_paths_say_what_is_promised() {
        let CommitFor(rules) = commit_for("*.log=spool; backups/**=close").unwrap();
        assert_eq!(rules.len(), 2);
        assert!(rules[0].0.compile_matcher().is_match("var/log/a.log"));
        assert!(rules[1].0.compile_matcher().is_match("backups/x/y"));
        assert!(!rules[1].0.compile_matcher().is_match("other/backups"));
        assert!(commit_for("*.log").is_err() && commit_for("*.log=never").is_err());
    }
}
