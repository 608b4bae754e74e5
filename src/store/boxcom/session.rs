//! Upload sessions (spec, section 12): the size is told at the start, the service says how large parts are,
//! each part has its digest, and the commit has that of the whole.
//!
//! A part whose answer was lost is looked for before it is sent again, and so is the file of a commit.

use super::ask::LONG;
use super::item::FIELDS;
use super::refusal::{Refusal, is_lost};
use super::upload::{Aim, Over, has_content, hex, sha1_of, times};
use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;

/// Parts of a page of the list.
const PAGE: usize = 1000;

/// Most bytes of a page.
const PAGE_MAX: usize = 1 << 20;

/// Most leftover sessions that are given up before one of our own can begin.
const LEFTOVERS: u32 = 3;

/// How often bytes of a part are sent again that did not arrive as they were.
const RESENDS: u32 = 2;

/// How often a commit is sent again whose parts are not known yet.
const MISMATCHES: u32 = 4;

/// The largest file that is sent in one request when no session can be had.
const DIRECT_MAX: u64 = 50_000_000;

// What is remembered of an upload, beside its addresses.
const OVER: &str = "over";
const ETAG: &str = "etag";

/// An address that the session's beginning told.
fn endpoint<'a>(up: &'a Upload, name: &str, op: &'static str) -> Result<&'a str> {
    let none = || Error::new(ErrorKind::Restart, op).said("the session has no address for that");
    up.extra.get(name).map(String::as_str).ok_or_else(none)
}

fn over_of(up: &Upload) -> Option<Over> {
    up.extra.get(OVER).map(|id| Over {
        id: id.clone(),
        etag: up.extra.get(ETAG).cloned(),
    })
}

/// A part that the service has.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    id: String,
    offset: u64,
    size: u64,
    sha1: String,
}

impl Stored {
    /// Reads one, with or without `part` around it.
    fn of(value: &Value) -> Option<Stored> {
        let part = match &value["part"] {
            Value::Null => value,
            part => part,
        };
        let id = match &part["part_id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return None,
        };
        Some(Stored {
            id,
            offset: item::size(&part["offset"])?,
            size: item::size(&part["size"])?,
            sha1: part["sha1"].as_str().unwrap_or("").to_lowercase(),
        })
    }

    /// Whether it is just this part.
    fn is(&self, range: &Range<u64>, sha1: &str) -> bool {
        self.offset == range.start
            && self.size == range.end - range.start
            && (self.sha1.is_empty() || self.sha1 == sha1)
    }

    /// What the commit needs of it.
    fn token(&self) -> String {
        json!({"part_id": self.id, "offset": self.offset, "size": self.size, "sha1": self.sha1})
            .to_string()
    }

    fn receipt(&self, part: &Part) -> Receipt {
        Receipt {
            part: part.clone(),
            token: self.token(),
        }
    }
}

impl BoxCom {
    pub(super) async fn start_session(&self, new: &New) -> Result<Upload> {
        const OP: &str = "start upload";
        let dir = names::folder_id(&new.place.dir, OP)?;
        let name = &*new.place.name;
        names::check(name)?;
        let mut aim = Aim::of(new, OP)?;
        self.check_aim(new, dir, &mut aim, OP).await?;
        let mut leftovers = 0;
        loop {
            let (path, body) = match &aim.over {
                Some(over) => (
                    format!("files/{}/upload_sessions", over.id),
                    json!({"file_size": new.size, "file_name": name}),
                ),
                None => (
                    "files/upload_sessions".to_owned(),
                    json!({"folder_id": dir, "file_size": new.size, "file_name": name}),
                ),
            };
            let ask = self.ask(Method::POST, &self.config.upload, &path, OP, name)?;
            let no = match self.tell(&ask.json(&body)).await? {
                Said::Yes(answer) => {
                    let session: Value = answer.json(ITEM_MAX).await?;
                    return self.begun(&session, aim.over, name, OP);
                }
                Said::No(no) => no,
            };
            match no.code.as_str() {
                "file_size_too_small" if new.size <= DIRECT_MAX => return Ok(whole(new)),
                "session_conflict" if leftovers < LEFTOVERS => {
                    // Of a crash, or of somebody who writes this file too: the commits decide then.
                    leftovers += 1;
                    self.give_up_leftover(&no, name, OP).await?;
                    continue;
                }
                // Somebody has made the file in the moment in which it was found out to be new.
                _ if no.is_lost() => return Err(no.error),
                _ => {}
            }
            // What is there may have the content already; a session over it finds that out again.
            if let Some(item) = self.turn(new, dir, &mut aim, no, OP).await? {
                aim.over = Some(Over {
                    id: item.id,
                    etag: item.etag,
                });
            }
        }
    }

    fn begun(
        &self,
        session: &Value,
        over: Option<Over>,
        name: &str,
        op: &'static str,
    ) -> Result<Upload> {
        let odd = |words: &str| Error::new(ErrorKind::Protocol, op).at(name).said(words);
        let part_size = item::size(&session["part_size"]).filter(|size| *size > 0);
        let part_size = part_size.ok_or_else(|| odd("a session without part_size"))?;
        let id = session["id"].as_str().unwrap_or("").to_owned();
        let mut extra = BTreeMap::new();
        for name in ["upload_part", "list_parts", "commit", "abort"] {
            if let Some(url) = session["session_endpoints"][name].as_str() {
                extra.insert(name.to_owned(), url.to_owned());
            }
        }
        for name in ["upload_part", "commit"] {
            if !extra.contains_key(name) {
                return Err(odd("a session without its addresses"));
            }
        }
        if let Some(over) = over {
            extra.insert(OVER.to_owned(), over.id);
            extra.extend(over.etag.map(|etag| (ETAG.to_owned(), etag)));
        }
        Ok(Upload {
            id,
            cut: Cut::every(part_size),
            sequential: false,
            whole: false,
            extra,
        })
    }

    async fn give_up_leftover(&self, no: &Refusal, name: &str, op: &'static str) -> Result<()> {
        let session = &no.context["session"];
        let url = session["session_endpoints"]["abort"]
            .as_str()
            .map(str::to_owned);
        let by_id = || {
            let id = session["id"].as_str()?;
            let base = self.config.upload.as_str().trim_end_matches('/');
            Some(format!("{base}/files/upload_sessions/{}", encode(id)))
        };
        let Some(url) = url.or_else(by_id) else {
            return Err(no.error.clone());
        };
        log::warn!("{name}: an unfinished upload is given up");
        let ask = self.ask_at(Method::DELETE, &url, op, name)?;
        match self.tell(&ask).await? {
            Said::Yes(answer) => answer.drain().await,
            Said::No(no) if matches!(no.status, 404 | 410) => {}
            Said::No(no) => return Err(no.error),
        }
        Ok(())
    }

    pub(super) async fn send_part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        const OP: &str = "upload part";
        if up.whole {
            let entry = self.put_whole(new, source).await?;
            return Ok(Receipt {
                part: part.clone(),
                token: entry.addr.0.to_string(),
            });
        }
        let name = &*new.place.name;
        let what = format!("{} {}", up.id, part.index);
        let range = &part.range;
        for resent in 0.. {
            let sha1 = sha1_of(source, range.clone()).await?;
            let digest = hex(&sha1);
            if self.doubted(OP, &what)
                && let Some(stored) = self.stored_at(up, range, OP, name).await?
            {
                return match stored.is(range, &digest) {
                    true => Ok(stored.receipt(part)),
                    false => Err(void(OP, name, "other bytes are stored there")),
                };
            }
            let url = endpoint(up, "upload_part", OP)?;
            let mut ask = self.ask_at(Method::PUT, url, OP, name)?;
            ask.body = Body::of(source, range.clone());
            let place = format!("bytes {}-{}/{}", range.start, range.end - 1, new.size);
            let ask = ask
                .header("content-type", "application/octet-stream")
                .header("content-range", place)
                .header("digest", format!("sha={}", STANDARD.encode(sha1)));
            let no = match self.tell(&ask).await {
                Ok(Said::Yes(answer)) => {
                    let told: Value = match answer.json(ITEM_MAX).await {
                        Ok(told) => told,
                        Err(error) => {
                            self.doubt(OP, &what);
                            return Err(error);
                        }
                    };
                    let stored = Stored::of(&told).ok_or_else(|| {
                        Error::new(ErrorKind::Protocol, OP)
                            .at(name)
                            .said("no part in the answer")
                    })?;
                    return match stored.is(range, &digest) {
                        true => Ok(stored.receipt(part)),
                        false => Err(void(OP, name, "another part was stored than was sent")),
                    };
                }
                Ok(Said::No(no)) => no,
                Err(error) => {
                    if is_lost(&error) {
                        self.doubt(OP, &what);
                    }
                    return Err(error);
                }
            };
            if no.is_lost() {
                self.doubt(OP, &what);
                return Err(no.error);
            }
            match (no.status, no.code.as_str()) {
                (416 | 409, "range_overlaps_existing_part") => {
                    // Ours, as a rule, from a try whose answer was lost.
                    let told = Stored::of(&no.context["conflicting_part"]);
                    let stored = match told.filter(|told| !told.sha1.is_empty()) {
                        Some(stored) => Some(stored),
                        None => self.stored_at(up, range, OP, name).await?,
                    };
                    return match stored.filter(|stored| stored.is(range, &digest)) {
                        Some(stored) => Ok(stored.receipt(part)),
                        None => Err(no.error_as(ErrorKind::Restart)),
                    };
                }
                (412, _) | (400, "digest_mismatch" | "bad_digest" | "request_size_mismatch") => {
                    if resent >= RESENDS {
                        return Err(no.error_as(ErrorKind::Mismatch));
                    }
                }
                (404 | 409 | 410 | 416, _) => return Err(no.error_as(ErrorKind::Restart)),
                _ => return Err(no.error),
            }
        }
        Err(Error::new(ErrorKind::Mismatch, OP).at(name))
    }

    /// The part that is stored at a place.
    async fn stored_at(
        &self,
        up: &Upload,
        range: &Range<u64>,
        op: &'static str,
        name: &str,
    ) -> Result<Option<Stored>> {
        let all = self.stored_parts(up, op, name).await?;
        Ok(all.into_iter().find(|stored| stored.offset == range.start))
    }

    /// All parts that are stored, by their offset.
    async fn stored_parts(&self, up: &Upload, op: &'static str, name: &str) -> Result<Vec<Stored>> {
        let url = match endpoint(up, "list_parts", op) {
            Ok(url) => url.to_owned(),
            Err(_) => format!("{}/parts", endpoint(up, "upload_part", op)?),
        };
        let mark = if url.contains('?') { '&' } else { '?' };
        let mut all: Vec<Stored> = Vec::new();
        let mut seen = 0;
        loop {
            let page = format!("{url}{mark}offset={seen}&limit={PAGE}");
            let ask = self.ask_at(Method::GET, &page, op, name)?;
            let page: Value = match self.tell(&ask).await? {
                Said::Yes(answer) => answer.json(PAGE_MAX).await?,
                Said::No(no) if matches!(no.status, 404 | 410) => {
                    return Err(no.error_as(ErrorKind::Restart));
                }
                Said::No(no) => return Err(no.error),
            };
            let entries = page["entries"].as_array().map_or(&[][..], Vec::as_slice);
            // The offset counts entries, not bytes.
            seen += entries.len();
            all.extend(entries.iter().filter_map(Stored::of));
            let total = item::size(&page["total_count"]).unwrap_or(0);
            if entries.is_empty() || seen as u64 >= total {
                all.sort_by_key(|stored| stored.offset);
                return Ok(all);
            }
        }
    }

    pub(super) async fn parts_there(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        const OP: &str = "list parts";
        if up.whole {
            return Err(void(OP, &new.place.name, "it goes in one request"));
        }
        let stored = self.stored_parts(up, OP, &new.place.name).await?;
        let parts = up.cut.parts(new.size);
        let fits = |stored: &Stored| {
            let index = stored.offset / up.cut.first;
            let part = usize::try_from(index)
                .ok()
                .and_then(|index| parts.get(index))?;
            let same = part.range == (stored.offset..stored.offset + stored.size);
            same.then(|| stored.receipt(part))
        };
        Ok(stored.iter().filter_map(fits).collect())
    }

    pub(super) async fn commit(
        &self,
        up: &Upload,
        new: &New,
        receipts: &[Receipt],
    ) -> Result<Entry> {
        const OP: &str = "commit upload";
        let dir = names::folder_id(&new.place.dir, OP)?;
        let name = &*new.place.name;
        if up.whole {
            let addr = receipts.first().map_or("", |receipt| &receipt.token);
            let item = self.item(&Addr::from(addr), OP).await?;
            let gone = || Error::new(ErrorKind::NotFound, OP).at(name);
            return self.entry_of(&item.ok_or_else(gone)?, OP);
        }
        let mut over = over_of(up);
        if self.doubted(OP, &up.id)
            && let Some(item) = self.committed(new, dir, over.as_ref(), OP).await?
        {
            return self.ours(dir, &item, new, OP).await;
        }
        let unread = |_| Error::new(ErrorKind::Restart, OP).at(name);
        let parts = receipts
            .iter()
            .map(|receipt| serde_json::from_str(&receipt.token));
        let parts: std::result::Result<Vec<Value>, _> = parts.collect();
        let body = json!({"parts": parts.map_err(unread)?, "attributes": times(new)});
        let sha1 = new.digests.0.get(&Algo::Sha1).and_then(|hex| unhex(hex));
        let sha1 = sha1.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, OP)
                .at(name)
                .said("the digest is not known")
        })?;
        let url = endpoint(up, "commit", OP)?;
        let mark = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{mark}fields={FIELDS}");
        let begun = Instant::now();
        let (mut mismatches, mut turned) = (0, false);
        loop {
            let mut ask = self.ask_at(Method::POST, &url, OP, name)?;
            ask.answer_within = Some(LONG);
            let ask = ask
                .json(&body)
                .header("digest", format!("sha={}", STANDARD.encode(&sha1)))
                .if_match(over.as_ref().and_then(|over| over.etag.as_deref()));
            let error = match self.tell(&ask).await {
                Ok(Said::Yes(answer)) if answer.status() == 202 => {
                    if let Some(wait) = answer.retry_after() {
                        // The parts are being put together. This is no failure, however often.
                        answer.drain().await;
                        if begun.elapsed() + wait > self.config.commit_within {
                            return Err(Error::new(ErrorKind::Timeout, OP)
                                .at(name)
                                .said("the commit is told to come later, again and again"));
                        }
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    // A new version that has the content of the old one changes nothing.
                    let error = answer.fault(ErrorKind::Broken, "202, and nothing is stored");
                    answer.drain().await;
                    error
                }
                Ok(Said::Yes(answer)) => {
                    self.doubt(OP, &up.id);
                    let item = self.described(answer, OP, name).await?;
                    self.doubted(OP, &up.id);
                    return self.made(dir, &item, OP);
                }
                Ok(Said::No(no)) if no.is_lost() => no.error,
                Ok(Said::No(no)) => match (no.status, no.code.as_str()) {
                    (400, "parts_mismatch") if mismatches < MISMATCHES => {
                        mismatches += 1;
                        tokio::time::sleep(self.config.pause).await;
                        continue;
                    }
                    (400, "parts_mismatch" | "digest_mismatch") => {
                        return Err(no.error_as(ErrorKind::Restart));
                    }
                    (404 | 410, _) => {
                        // Unknown, or committed by a request whose answer was lost.
                        return match self.committed(new, dir, over.as_ref(), OP).await? {
                            Some(item) => self.ours(dir, &item, new, OP).await,
                            None => Err(no.error_as(ErrorKind::Restart)),
                        };
                    }
                    (409, "item_name_in_use") => {
                        return match self.committed(new, dir, over.as_ref(), OP).await? {
                            Some(item) if !new.exclusive => self.ours(dir, &item, new, OP).await,
                            _ if new.exclusive => Err(no.error),
                            // A session for a new file cannot become a version of another one.
                            _ => Err(no.error_as(ErrorKind::Restart)),
                        };
                    }
                    (412, _) if !turned => {
                        turned = true;
                        let mut aim = Aim::of(new, OP)?;
                        aim.over = over.clone();
                        match self.turn(new, dir, &mut aim, no, OP).await? {
                            Some(item) => return self.ours(dir, &item, new, OP).await,
                            // The file of the session is gone: the content goes elsewhere.
                            None if aim.over.is_none() => {
                                return Err(void(OP, name, "the file that it replaces is gone"));
                            }
                            None => over = aim.over,
                        }
                        continue;
                    }
                    _ => return Err(no.error),
                },
                Err(error) if is_lost(&error) => error,
                Err(error) => return Err(error),
            };
            return match self.committed(new, dir, over.as_ref(), OP).await {
                Ok(Some(item)) => self.ours(dir, &item, new, OP).await,
                _ => {
                    self.doubt(OP, &up.id);
                    Err(error)
                }
            };
        }
    }

    /// The file, if it has our content.
    async fn committed(
        &self,
        new: &New,
        dir: &str,
        over: Option<&Over>,
        op: &'static str,
    ) -> Result<Option<Item>> {
        let there = self.there(new, dir, over, op).await?;
        Ok(there.filter(|item| has_content(item, new)))
    }

    pub(super) async fn give_up(&self, up: &Upload, new: &New) -> Result<()> {
        const OP: &str = "give up upload";
        if up.whole {
            return Ok(());
        }
        let url = match endpoint(up, "abort", OP) {
            Ok(url) => url,
            Err(_) => endpoint(up, "upload_part", OP)?,
        };
        let ask = self.ask_at(Method::DELETE, url, OP, &new.place.name)?;
        match self.tell(&ask).await? {
            Said::Yes(answer) => answer.drain().await,
            Said::No(no) if matches!(no.status, 404 | 410) => {}
            Said::No(no) => return Err(no.error),
        }
        Ok(())
    }
}

/// An upload in one request, for what the service takes no session for.
fn whole(new: &New) -> Upload {
    Upload {
        id: uuid::Uuid::new_v4().simple().to_string(),
        cut: Cut::every(new.size),
        sequential: true,
        whole: true,
        extra: BTreeMap::new(),
    }
}

fn void(op: &'static str, name: &str, words: &str) -> Error {
    Error::new(ErrorKind::Restart, op).at(name).said(words)
}

/// The bytes of a digest in hex.
fn unhex(hex: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_with_and_without_its_frame() {
        let bare = json!({"part_id": "6F2D3486", "offset": 8, "size": 4, "sha1": "AB"});
        let part = Stored::of(&bare).unwrap();
        assert_eq!(Stored::of(&json!({"part": bare})), Some(part.clone()));
        assert!(part.is(&(8..12), "ab") && !part.is(&(8..12), "cd") && !part.is(&(0..4), "ab"));
        assert_eq!(Stored::of(&json!({"part": {}})), None);
        assert_eq!(Stored::of(&json!(null)), None);
    }

    #[test]
    fn a_digest_in_hex_is_read() {
        assert_eq!(unhex("00ffA0"), Some(vec![0, 255, 160]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
