//! What the server saw: one record per request, in memory (bounded) and, if wanted, as JSON lines.
//!
//! No secret gets in here: of the headers only `Range` is kept, and the parameters that carry a
//! credential are blanked.

use serde::Serialize;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How many requests are remembered.
const REMEMBERED: usize = 100_000;

/// Parameters whose value is a credential in one of the APIs.
const SECRET: [&str; 6] = [
    "key",
    "api_key",
    "token",
    "access_token",
    "client_secret",
    "password",
];

/// One request as the server saw it. In memory from its arrival on; `status` is there before the
/// client can have the answer, `bytes_out` and `ms` are final when the answer's body has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Request {
    /// When it arrived, RFC 3339, UTC.
    pub time: String,
    /// The verb.
    pub method: String,
    /// Path and query as they came, credentials blanked.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The status that was answered; absent if none was.
    pub status: Option<u16>,
    /// Bytes of the request's body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were handed to the connection.
    pub bytes_out: u64,
    /// From arrival to the end of the answer, in milliseconds.
    pub ms: u64,
    /// The connection it came by, counted from 1.
    pub connection: u64,
    /// The fault that was applied.
    pub fault: Option<String>,
    /// Whether the answer has ended, well or not.
    pub ended: bool,
}

/// All requests.
#[derive(Debug)]
pub(super) struct Log {
    entries: Mutex<VecDeque<Arc<Entry>>>,
    file: Option<Mutex<File>>,
    changed: Notify,
}

/// One request that may still be under way.
pub(super) type Entry = Mutex<Request>;

impl Log {
    /// `path`: where the lines go.
    pub(super) fn open(path: Option<&Path>) -> io::Result<Log> {
        let file = match path {
            Some(path) => Some(Mutex::new(
                OpenOptions::new().create(true).append(true).open(path)?,
            )),
            None => None,
        };
        Ok(Log {
            entries: Mutex::default(),
            file,
            changed: Notify::new(),
        })
    }

    /// A request arrived.
    pub(super) fn begin(&self, request: Request) -> Arc<Entry> {
        let entry = Arc::new(Mutex::new(request));
        let mut entries = hold(&self.entries);
        if entries.len() == REMEMBERED {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
        drop(entries);
        self.changed.notify_waiters();
        entry
    }

    /// More is known.
    pub(super) fn amend(&self, entry: &Entry, change: impl FnOnce(&mut Request)) {
        change(&mut hold(entry));
        self.changed.notify_waiters();
    }

    /// The answer has ended: writes the line.
    pub(super) fn end(&self, entry: &Entry, change: impl FnOnce(&mut Request)) {
        let mut request = hold(entry);
        change(&mut request);
        request.ended = true;
        let line = self
            .file
            .as_ref()
            .map(|file| (file, serde_json::to_string(&*request)));
        drop(request);
        if let Some((file, Ok(mut line))) = line {
            line.push('\n');
            if let Err(e) = hold(file).write_all(line.as_bytes()) {
                ::log::warn!("request log: {e}");
            }
        }
        self.changed.notify_waiters();
    }

    /// Everything remembered, in order of arrival.
    pub(super) fn all(&self) -> Vec<Request> {
        hold(&self.entries)
            .iter()
            .map(|entry| hold(entry).clone())
            .collect()
    }

    /// Forgets what is remembered.
    pub(super) fn clear(&self) {
        hold(&self.entries).clear();
    }

    /// Waits until `enough` says so of all that is remembered.
    pub(super) async fn wait(&self, mut enough: impl FnMut(&[Request]) -> bool) -> Vec<Request> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let all = self.all();
            if enough(&all) {
                return all;
            }
            changed.await;
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Path and query with the values of credential parameters blanked.
pub(super) fn redact(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let blank = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(blank).collect();
    format!("{path}?{}", query.join("&"))
}

fn is_secret(name: &str) -> bool {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    SECRET
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_query_is_blanked_and_the_rest_stays() {
        assert_eq!(
            redact("/a/key=1?id=2&KEY=s3cret&x"),
            "/a/key=1?id=2&KEY=***&x"
        );
        assert_eq!(redact("/a?key=a=b"), "/a?key=***");
        assert_eq!(redact("/a?%6bey=b"), "/a?%6bey=***");
        assert_eq!(redact("/a"), "/a");
    }
}
