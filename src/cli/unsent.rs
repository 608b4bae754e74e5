//! `assetfs unsent`: what stays in the spools, listed, sent again, copied out, discarded.

mod export;
mod spools;

use super::control::{Answer, Client, Request, unexpected};
use super::progress::count;
use super::{Ended, KEPT};
use crate::config::units::show_size;
use crate::write::unsent::{Stays, Unsent, hold, remove};
use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;
use spools::{Found, Group, Spools, Wanted};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

const AFTER_HELP: &str = "\
A version is named by its id, by its path below the mountpoint, or by its path in the mount. States:
  owed     a program was told that it is safe: sent by itself, by this mount or the next
  refused  a program was told that it failed: sent only by retry
  torn     open at a crash, or a write of it failed: nobody said that it is whole, and it is never sent;
           export gives what was written
  odd      it cannot be understood: export gives the bytes that are there";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct UnsentArgs {
    #[command(subcommand)]
    command: UnsentCommand,
    /// Only the spools below this state directory [default: those of all mounts, and of what is not
    /// mounted]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum UnsentCommand {
    /// What stays, of all spools of this user or below PATH
    #[command(after_help = AFTER_HELP)]
    List {
        /// A mountpoint, or a path in a mount or below a mountpoint
        #[arg(value_hint = ValueHint::AnyPath)]
        path: Option<PathBuf>,
        /// One JSON object per line and version
        #[arg(long)]
        json: bool,
    },
    /// Send again what is owed or was refused, and wait (exit status 3: some of it is still not sent)
    #[command(after_help = AFTER_HELP)]
    Retry {
        /// Which
        #[arg(value_name = "PATH|ID", required_unless_present = "all", value_hint = ValueHint::AnyPath)]
        which: Vec<PathBuf>,
        /// All that is owed or was refused
        #[arg(long, conflicts_with = "which")]
        all: bool,
    },
    /// Copy a version into a local file, each block compared with its checksum
    #[command(after_help = AFTER_HELP)]
    Export {
        /// Which
        #[arg(value_name = "PATH|ID", value_hint = ValueHint::AnyPath)]
        which: PathBuf,
        /// A file that does not exist, or a directory
        #[arg(value_hint = ValueHint::AnyPath)]
        target: PathBuf,
        /// Replace TARGET
        #[arg(long)]
        force: bool,
    },
    /// Remove a version from the spool
    #[command(after_help = AFTER_HELP)]
    Discard {
        /// Which
        #[arg(value_name = "PATH|ID", value_hint = ValueHint::AnyPath)]
        which: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Even if it is owed: a program was told that it is safe
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn unsent(args: &UnsentArgs) -> Ended {
    let spools = Spools::look(args.state_dir.as_deref())?;
    match &args.command {
        UnsentCommand::List { path, json } => list(&spools, path.as_deref(), *json),
        UnsentCommand::Retry { which, all } => retry(&spools, which, *all),
        UnsentCommand::Export {
            which,
            target,
            force,
        } => {
            let found = spools.one(which)?;
            export::export(found.unsent, target, *force)?;
            Ok(0)
        }
        UnsentCommand::Discard { which, yes, force } => {
            let found = spools.one(which)?;
            discard(found, *yes, *force)?;
            super::print_safe(&format!("{}: discarded\n", found.shown()));
            Ok(0)
        }
    }
}

/// A version with where it belongs, for programs.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    unsent: &'a Unsent,
    source: Option<&'a str>,
    mountpoint: Option<&'a Path>,
}

fn list(spools: &Spools, path: Option<&Path>, json: bool) -> Ended {
    let wanted = path.map(Wanted::new);
    let mut text = String::new();
    for group in &spools.groups {
        let rows: Vec<&Unsent> = (group.unsent.iter())
            .filter(|one| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted.is_below(group, one))
            })
            .collect();
        if json {
            for unsent in rows {
                let row = Row {
                    unsent,
                    source: group.source.as_deref(),
                    mountpoint: group.mountpoint.as_deref(),
                };
                text += &serde_json::to_string(&row).map_err(|why| why.to_string())?;
                text.push('\n');
            }
        } else if !rows.is_empty() {
            text += &table(group, &rows);
        }
    }
    let left_out = spools.tell_left_out(wanted.as_ref());
    if text.is_empty() && !json && !left_out {
        "nothing is unsent\n".clone_into(&mut text);
    }
    super::print_safe(&text);
    Ok(u8::from(left_out))
}

fn table(group: &Group, rows: &[&Unsent]) -> String {
    let mut out = format!("{}: {}\n", group.title(), count(rows.len()));
    let width = rows.iter().map(|one| one.id.len()).max().unwrap_or(0);
    for one in rows {
        let size = show_size(one.size);
        let _ = write!(
            out,
            "  {:width$}  {:7}  {size:>10}  {}  {}",
            one.id,
            one.state.word(),
            when(one.at_ms),
            one.path.as_deref().unwrap_or("?"),
        );
        if let Some(error) = &one.error {
            let _ = write!(out, "  {error}");
        }
        out.push('\n');
    }
    out
}

/// Local time, to the minute.
fn when(at_ms: Option<u64>) -> String {
    let time = at_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match time {
        Some(time) => {
            let zoned = time.to_zoned(jiff::tz::TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M").to_string()
        }
        None => format!("{:16}", "?"),
    }
}

fn retry(spools: &Spools, which: &[PathBuf], all: bool) -> Ended {
    let found = if all {
        spools.tell_left_out(None);
        let sendable = |one: &Unsent| matches!(one.state, Stays::Owed | Stays::Refused);
        spools
            .all()
            .filter(|found| sendable(found.unsent))
            .collect()
    } else {
        let named: Result<Vec<Found>, String> = which.iter().map(|path| spools.one(path)).collect();
        named?
    };
    if found.is_empty() {
        super::print_safe("nothing is unsent\n");
    }
    let mut kept = 0;
    let mut asked: BTreeMap<&Path, Vec<Found>> = BTreeMap::new();
    for one in found {
        let why = match (one.unsent.state, &one.group.socket) {
            (Stays::Torn, _) => "is torn, nobody said that it is whole: export or discard it",
            (Stays::Odd, _) => "cannot be understood: export or discard it",
            (Stays::Owed, None) => "is not mounted: the next mount of its source sends it",
            (Stays::Refused, None) => "is not mounted: mount its source, then retry",
            (_, Some(socket)) => {
                asked.entry(socket).or_default().push(one);
                continue;
            }
        };
        super::eprintln_safe(&format!("assetfs: {} {why}", one.shown()));
        kept += 1;
    }
    for (socket, found) in asked {
        let ids = found.iter().map(|one| one.unsent.id.clone()).collect();
        let mountpoint = found[0].group.place();
        let mut client = Client::ask_at(socket, mountpoint, &Request::Retry { ids })?;
        for _ in &found {
            match client.next()? {
                Some(Answer::Retried { id, error }) => {
                    let one = found.iter().find(|one| one.unsent.id == id);
                    let name = one.map_or(id.as_str(), |one| one.unsent.name());
                    match error {
                        None => super::print_safe(&format!("{name}: sent\n")),
                        Some(why) => {
                            super::eprintln_safe(&format!("assetfs: {name} is not sent: {why}"));
                            kept += 1;
                        }
                    }
                }
                other => return Err(unexpected(mountpoint, other.as_ref())),
            }
        }
    }
    Ok(if kept > 0 { KEPT } else { 0 })
}

fn discard(found: Found<'_>, yes: bool, force: bool) -> Result<(), String> {
    super::print_safe(&table(found.group, &[found.unsent]));
    let shown = found.shown();
    if found.unsent.state == Stays::Owed && !force {
        return Err(format!(
            "{shown} is owed, a program was told that it is safe: discard it with --force"
        ));
    }
    if !yes && !agreed()? {
        return Err(format!("{shown} is kept"));
    }
    let id = found.unsent.id.clone();
    if let Some(socket) = &found.group.socket {
        let place = found.group.place();
        let mut client = Client::ask_at(socket, place, &Request::Discard { id, force })?;
        return match client.next()? {
            Some(Answer::Discarded) => Ok(()),
            other => Err(unexpected(place, other.as_ref())),
        };
    }
    let folder = found.unsent.data.parent().unwrap_or(Path::new("/"));
    match hold(folder).map_err(|why| why.to_string())? {
        Some(_lock) => remove(&found.unsent.data).map_err(|why| why.to_string()),
        None => Err(format!("{shown} was just mounted: try again")),
    }
}

/// Asks on the terminal.
fn agreed() -> Result<bool, String> {
    if !std::io::stdin().is_terminal() {
        return Err("there is no terminal to ask on: discard it with --yes".to_owned());
    }
    super::print_safe("Remove it for good? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|why| why.to_string())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_id_state_size_time_path_and_error() {
        let one = Unsent {
            id: "0123abcd-7".into(),
            state: Stays::Refused,
            path: Some("/d/a".into()),
            size: 2048,
            at_ms: Some(0),
            error: Some("put /d/a: no space left".into()),
            data: "/s/0123abcd/7.data".into(),
        };
        let group = Group {
            source: Some("demo:/x".into()),
            mountpoint: Some("/m".into()),
            socket: None,
            folders: Vec::new(),
            unsent: Vec::new(),
        };
        let text = table(&group, &[&one]);
        assert!(text.starts_with("demo:/x on /m: 1 file\n"), "{text}");
        assert!(
            text.contains("  0123abcd-7  refused     2.0 KiB  19"),
            "{text}"
        );
        assert!(
            text.ends_with("  /d/a  put /d/a: no space left\n"),
            "{text}"
        );
        assert_eq!(when(None).len(), when(Some(0)).len());
    }
}
