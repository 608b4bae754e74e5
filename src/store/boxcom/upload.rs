//! Uploads of whole contents in one request (spec, section 10), and what they share with sessions: over which
//! file a content goes, and what a refusal means for that.
//!
//! What replaces an existing file is a new version of it, conditional on its etag: id, links and history
//! stay. An etag also moves with a name or a time; what counts is the version of the content.

use super::ask::LONG;
use super::item::{FIELDS, stamp, tag_of, whole_seconds};
use super::moves::{RESERVED_PAUSE, RESERVED_TRIES};
use super::refusal::{Refusal, is_lost};
use super::*;
use sha1::{Digest, Sha1};

/// How often the aim of an upload may change.
const TURNS: u32 = 5;

/// How often bytes are sent again that did not arrive as they were.
const RESENDS: u32 = 2;

/// The file that a content goes over.
#[derive(Clone, Debug)]
pub(super) struct Over {
    pub(super) id: String,
    pub(super) etag: Option<String>,
}

/// Where an upload goes, and how often that has changed.
#[derive(Debug)]
pub(super) struct Aim {
    pub(super) over: Option<Over>,
    turns: u32,
    resends: u32,
    reserved: u32,
}

/// Whether an item has the content that is to be stored.
pub(super) fn has_content(item: &Item, new: &New) -> bool {
    let ours = new.digests.0.get(&Algo::Sha1);
    let same = |sha1: &String| ours.is_some_and(|ours| ours.eq_ignore_ascii_case(sha1));
    item.kind == Kind::File && item.size == Some(new.size) && item.sha1.as_ref().is_some_and(same)
}

/// The times of a content, as they are sent with it.
pub(super) fn times(new: &New) -> Value {
    match new.attrs.mtime {
        Some(mtime) => json!({"content_modified_at": stamp(mtime)}),
        None => json!({}),
    }
}

impl Aim {
    pub(super) fn of(new: &New, op: &'static str) -> Result<Aim> {
        let over = match new.replaces.as_ref().filter(|_| !new.exclusive) {
            Some(old) => Some(Over {
                id: names::file_id(&old.addr, op)?.to_owned(),
                etag: tag_of(old).0.map(str::to_owned),
            }),
            None => None,
        };
        Ok(Aim {
            over,
            turns: 0,
            resends: 0,
            reserved: 0,
        })
    }
}

/// The SHA-1 of a range of a source.
pub(super) async fn sha1_of(source: &dyn Source, range: Range<u64>) -> Result<[u8; 20]> {
    let mut sha1 = Sha1::new();
    let mut at = range.start;
    while at < range.end {
        let piece = at..range.end.min(at + PIECE);
        at = piece.end;
        sha1.update(&source.read(piece).await?);
    }
    Ok(sha1.finalize().into())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl BoxCom {
    pub(super) async fn put_whole(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        const OP: &str = "upload";
        let dir = names::folder_id(&new.place.dir, OP)?;
        names::check(&new.place.name)?;
        let sha1 = match new.digests.0.get(&Algo::Sha1) {
            Some(sha1) => sha1.to_lowercase(),
            None => hex(&sha1_of(source, 0..new.size).await?),
        };
        let mut aim = Aim::of(new, OP)?;
        loop {
            let error = match self.put_once(new, dir, source, &sha1, &aim, OP).await {
                Ok(Said::Yes(answer)) => {
                    let item = self.described(answer, OP, &new.place.name).await?;
                    return self.made(dir, &item, OP);
                }
                Ok(Said::No(no)) if !no.is_lost() => {
                    match self.turn(new, dir, &mut aim, no, OP).await? {
                        Some(item) => return self.ours(dir, &item, new, OP).await,
                        None => continue,
                    }
                }
                Ok(Said::No(no)) => no.error,
                Err(error) if !is_lost(&error) => return Err(error),
                Err(error) => error,
            };
            return match self.there(new, dir, aim.over.as_ref(), OP).await {
                Ok(Some(item)) if has_content(&item, new) => self.ours(dir, &item, new, OP).await,
                _ => Err(error),
            };
        }
    }

    async fn put_once(
        &self,
        new: &New,
        dir: &str,
        source: &dyn Source,
        sha1: &str,
        aim: &Aim,
        op: &'static str,
    ) -> Result<Said> {
        let mut attributes = times(new);
        attributes["name"] = new.place.name.as_str().into();
        let path = match &aim.over {
            Some(over) => format!("files/{}/content?fields={FIELDS}", over.id),
            None => {
                attributes["parent"] = json!({"id": dir});
                format!("files/content?fields={FIELDS}")
            }
        };
        let boundary = uuid::Uuid::new_v4().simple().to_string();
        // The attributes come first. The name stands only there: in a form's header it may be cut.
        let before = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"attributes\"\r\n\r\n\
             {attributes}\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"file\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        let after = format!("\r\n--{boundary}--\r\n");
        let mut ask = self.ask(
            Method::POST,
            &self.config.upload,
            &path,
            op,
            &new.place.name,
        )?;
        ask.body = match new.size {
            0 => Body::Bytes((before + &after).into()),
            size => Body::Source {
                before: before.into(),
                source,
                range: 0..size,
                after: after.into(),
            },
        };
        ask.answer_within = Some(LONG);
        let over = aim.over.as_ref();
        let ask = ask
            .header(
                "content-type",
                format!("multipart/form-data; boundary={boundary}"),
            )
            // The SHA-1, in spite of its name.
            .header("content-md5", sha1)
            .if_match(over.and_then(|over| over.etag.as_deref()));
        self.tell(&ask).await
    }

    /// What is where a content goes.
    pub(super) async fn there(
        &self,
        new: &New,
        dir: &str,
        over: Option<&Over>,
        op: &'static str,
    ) -> Result<Option<Item>> {
        match over {
            Some(over) => self.item(&names::addr(Kind::File, &over.id), op).await,
            None => {
                let found = self.find(dir, &new.place.name, op).await?;
                Ok(found.filter(|item| item.name.as_deref() == Some(&*new.place.name)))
            }
        }
    }

    /// The entry of an item that has our content, with the time that was asked for.
    pub(super) async fn ours(
        &self,
        dir: &str,
        item: &Item,
        new: &New,
        op: &'static str,
    ) -> Result<Entry> {
        let entry = self.made(dir, item, op)?;
        match new.attrs.mtime.map(whole_seconds) {
            Some(mtime) if entry.attrs.mtime != Some(mtime) => {
                self.set_attrs(&entry, &new.attrs).await
            }
            _ => Ok(entry),
        }
    }

    /// What a refusal of an upload means: an item that has the content already, another aim, or the end.
    pub(super) async fn turn(
        &self,
        new: &New,
        dir: &str,
        aim: &mut Aim,
        no: Refusal,
        op: &'static str,
    ) -> Result<Option<Item>> {
        let name = &*new.place.name;
        if no.code == "name_temporarily_reserved" {
            aim.reserved += 1;
            if aim.reserved > RESERVED_TRIES {
                return Err(no.error);
            }
            tokio::time::sleep(RESERVED_PAUSE * aim.reserved).await;
            return Ok(None);
        }
        if matches!(no.code.as_str(), "bad_digest" | "request_size_mismatch") {
            aim.resends += 1;
            return match aim.resends <= RESENDS {
                true => Ok(None),
                false => Err(no.error_as(ErrorKind::Mismatch)),
            };
        }
        aim.turns += 1;
        if aim.turns > TURNS {
            return Err(no.error);
        }
        if no.error.kind == ErrorKind::Exists {
            let brief = match no.conflict() {
                Some(item) => Some(item),
                None => self.find(dir, name, op).await?,
            };
            let Some(brief) = brief else { return Ok(None) };
            if brief.kind == Kind::Dir && brief.name.as_deref() == Some(name) {
                return Err(no.error_as(ErrorKind::IsDir));
            }
            let other = brief.name.as_deref() != Some(name);
            if other || new.exclusive || aim.over.is_some() {
                return Err(no.error);
            }
            let now = self.item(&names::addr(brief.kind, &brief.id), op).await?;
            if let Some(now) = now {
                if has_content(&now, new) {
                    return Ok(Some(now));
                }
                aim.over = Some(Over {
                    id: now.id,
                    etag: now.etag,
                });
            }
            return Ok(None);
        }
        let over = match &aim.over {
            Some(over) if matches!(no.status, 404 | 409 | 412) => over.clone(),
            _ => return Err(no.error),
        };
        if no.error.kind == ErrorKind::Busy {
            return Err(no.error);
        }
        if no.status == 404 {
            let now = self.still_there(new, dir, &over, op).await?;
            if now.is_some() {
                return Err(no.error_as(ErrorKind::Protocol));
            }
        }
        self.check_aim(new, dir, aim, op).await
    }

    /// The file that a content goes over, if it still has the name.
    async fn still_there(
        &self,
        new: &New,
        dir: &str,
        over: &Over,
        op: &'static str,
    ) -> Result<Option<Item>> {
        let now = self.item(&names::addr(Kind::File, &over.id), op).await?;
        Ok(now.filter(|item| {
            let folder = item.parent.as_deref().is_none_or(|parent| parent == dir);
            folder && item.name.as_deref() == Some(&*new.place.name)
        }))
    }

    /// Takes the aim anew: over what the file is by now, or over nothing if it is gone. `Conflict` if it has
    /// somebody else's content; the item if it has ours.
    pub(super) async fn check_aim(
        &self,
        new: &New,
        dir: &str,
        aim: &mut Aim,
        op: &'static str,
    ) -> Result<Option<Item>> {
        let Some(over) = aim.over.clone() else {
            return Ok(None);
        };
        let Some(now) = self.still_there(new, dir, &over, op).await? else {
            // Gone, or moved away: there is nothing to spare.
            aim.over = None;
            return Ok(None);
        };
        if has_content(&now, new) {
            return Ok(Some(now));
        }
        let told = new.replaces.as_ref().map(|old| &old.version);
        if told.is_some_and(|version| *version != now.version()) {
            return Err(Error::new(ErrorKind::Conflict, op).at(&*new.place.name));
        }
        aim.over = Some(Over {
            id: now.id,
            etag: now.etag,
        });
        Ok(None)
    }
}
