//! The rooms lie one above the other, and nobody reaches upwards.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// From top to bottom; rooms of one line are neighbours that do not know each other.
const ROOMS: [&[&str]; 11] = [
    &["main", "cli"],
    &["config"],
    &["fuse"],
    &["vfs"],
    &["write"],
    // Below: a partly written file is completed with bytes that are read.
    &["read"],
    &["store"],
    &["http"],
    &["flow"],
    &["error"],
    &["failpoint"],
];

fn level(room: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room))
}

fn may_use(room: &str, other: &str) -> bool {
    match (room, other) {
        _ if room == other => true,
        ("serve", other) => other == "error",
        (room, "serve") => level(room) == Some(0),
        _ => match (level(room), level(other)) {
            (Some(mine), Some(others)) => mine < others || (mine == others && mine == 0),
            _ => false,
        },
    }
}

/// The rooms that a line names: `crate::x`, `assetfs::x`, and each of `crate::{x::.., y::..}`.
fn named(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect()
    };
    let mut rooms = Vec::new();
    for (at, found) in line
        .match_indices("crate::")
        .chain(line.match_indices("assetfs::"))
    {
        let rest = &line[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => rooms.extend(group.split(',').map(word)),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// What is wrong with a line of a room, if anything.
fn fault(room: &str, line: &str) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    let upwards = named(code).into_iter().find(|other| !may_use(room, other));
    if let Some(other) = upwards {
        return Some(format!("{room} must not use {other}"));
    }
    [("fuser::", "fuse"), ("reqwest::", "http")]
        .into_iter()
        .find(|(word, home)| code.contains(word) && room != *home)
        .map(|(word, home)| format!("{word} belongs into {home} alone"))
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn no_room_reaches_upwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut faults = Vec::new();
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let first = below.iter().next().unwrap().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let known = room == "serve" || level(room).is_some();
        assert!(
            known,
            "{room} is no room: give it a place in tests/layers.rs"
        );
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            if let Some(fault) = fault(room, line) {
                faults.push(format!("{}:{}: {fault}", below.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_check_sees_what_it_should() {
    assert!(fault("store", "use crate::vfs::Vfs;").is_some());
    assert!(fault("read", "use crate::write::Spool;").is_some());
    assert!(fault("serve", "use crate::store::Entry;").is_some());
    assert!(fault("vfs", "use crate::{error::Kind, cli::run};").is_some());
    assert!(fault("vfs", "    let x: fuser::Errno = 1;").is_some());
    assert!(fault("store", "reqwest::get(url)").is_some());
    assert!(fault("store", "use crate::http::Client; // not crate::vfs").is_none());
    assert!(fault("fuse", "use fuser::Errno;").is_none());
    assert!(fault("cli", "crate::serve::Server::start()").is_none());
}
