//! Uploads in parts (spec, section 6).
//!
//! There is no upload id: one upload of a key is under way at a time, and what a crash has left is given
//! up before the next begins. Every request of an upload is conditional on the version that it replaces.

use super::ask::About;
use super::pace::{NUMBERED, plan};
use super::upload::{is_lost, is_told, key_of, next, strange};
use super::*;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};

/// The largest part before the line's speed is known: what the spec's slower schedule ends with.
const PART_UNKNOWN: u64 = 64 << 20;

/// `Upload::extra`: the etag that is replaced, the timestamp, and when it began by the server's clock.
const TAG: &str = "etag";
const STAMP: &str = "timestamp";
const BEGAN: &str = "began";

/// A row of `fileslist`.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "partNo")]
    number: u32,
    created: Option<Value>,
}

impl IotFile {
    pub(super) async fn start_parts(&self, new: &New) -> Result<Upload> {
        const OP: &str = "start upload";
        let key = key_of(new);
        self.check_place(new, &key, OP)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.uploads.take(&key, &id, OP).await?;
        let mut turn = self.uploads.turn(&key, &id);
        self.check_new(new, &key, OP).await?;
        let stamp = self.stamp(new);
        let mut tag = self.base(new, &key);
        let (mut aborted, mut turned) = (false, false);
        loop {
            let answer = self
                .step(&key, "?upload=start", tag, new, stamp, OP)
                .await?;
            if answer.is_success() {
                let began = answer.header("date").and_then(|d| {
                    let date = httpdate::parse_http_date(d).ok()?;
                    Some(row::millis(date).to_string())
                });
                answer.drain().await;
                let mut extra = BTreeMap::from([(STAMP.to_owned(), stamp.to_string())]);
                extra.extend(began.map(|began| (BEGAN.to_owned(), began)));
                extra.extend(tag.map(|tag| (TAG.to_owned(), tag.to_string())));
                turn.goes_on = true;
                return Ok(Upload {
                    id: id.clone(),
                    cut: plan(new.size, self.config.part_size, self.up.most(PART_UNKNOWN)),
                    sequential: false,
                    whole: false,
                    extra,
                });
            }
            let status = answer.status();
            let error = answer.into_error().await;
            if !matches!(status, 400 | 404 | 409 | 412) {
                return Err(strange(error));
            }
            let now = self.head(&key, OP).await?;
            let there = now.and_then(|id| id.0);
            if now.is_some() && new.exclusive {
                return Err(Error::new(ErrorKind::Exists, OP).at(key.as_str()));
            }
            if there == tag {
                // A leftover of a crash, or of somebody else: it is in the way.
                if aborted {
                    return Err(strange(error));
                }
                aborted = true;
                let left = self
                    .step(&key, "?upload=abort", tag, new, stamp, OP)
                    .await?;
                log::warn!(
                    "{key}: an unfinished upload was given up: {}",
                    left.status()
                );
                left.drain().await;
                continue;
            }
            let ours = self.uploads.may_be_ours(&key, now.and_then(|id| id.1));
            let free = !is_told(new) || ours || now.is_none();
            if !free || turned {
                return Err(Error {
                    kind: ErrorKind::Conflict,
                    ..error
                });
            }
            (tag, turned) = (there, true);
        }
    }

    /// A request of an upload that has no content.
    async fn step(
        &self,
        key: &str,
        query: &str,
        tag: Option<u64>,
        new: &New,
        stamp: i64,
        op: &'static str,
    ) -> Result<Answer> {
        let about = self.about(new, key, stamp);
        let mut ask = self.ask(Method::PUT, "files", key, query, op)?;
        ask.about = Some(&about);
        ask.if_match = tag;
        ask.body = Body::Empty;
        self.send(&ask).await
    }

    pub(super) async fn send_part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        const OP: &str = "upload part";
        let key = key_of(new);
        if part.index >= NUMBERED {
            return Err(Error::new(ErrorKind::TooLarge, OP)
                .at(key)
                .said("more than 999 parts"));
        }
        self.uploads.touch(&key, &up.id);
        let (tag, stamp) = told(up, new);
        let about = self.about(new, &key, stamp);
        let query = format!("?part={}", part.index + 1);
        let mut ask = self.ask(Method::PUT, "files", &key, &query, OP)?;
        ask.about = Some(&about);
        ask.if_match = tag;
        ask.body = Body::of(source, part.range.clone());
        let begin = Instant::now();
        let answer = self.send(&ask).await?;
        if answer.is_success() {
            answer.drain().await;
            self.uploads.touch(&key, &up.id);
            let size = part.range.end - part.range.start;
            self.up.note(size, begin.elapsed());
            return Ok(Receipt {
                part: part.clone(),
                token: String::new(),
            });
        }
        let void = matches!(answer.status(), 400 | 404 | 409 | 410 | 412 | 422);
        let error = answer.into_error().await;
        if !void {
            return Err(strange(error));
        }
        let there = self.head(&key, OP).await?.and_then(|id| id.0);
        let kind = match there == tag {
            true => ErrorKind::Restart,
            false if new.exclusive => ErrorKind::Exists,
            false => ErrorKind::Conflict,
        };
        Err(Error { kind, ..error })
    }

    pub(super) async fn complete(
        &self,
        up: &Upload,
        new: &New,
        parts: usize,
        tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        const OP: &str = "commit upload";
        let key = key_of(new);
        self.uploads.touch(&key, &up.id);
        let (tag, stamp) = told(up, new);
        let about = self.about(new, &key, stamp);
        let ours = |id: Option<Id>| {
            id.is_some_and(|id| id.1 == Some(stamp) && id.0.is_none_or(|etag| etag == next(tag)))
        };
        let mut again = true;
        if self.uploads.may_be_ours(&key, Some(stamp)) && ours(self.head(&key, OP).await?) {
            return self.completed(up, new, &key, None, tag, &about).await;
        }
        loop {
            let mut ask = self.ask(Method::PUT, "files", &key, "?upload=complete", OP)?;
            ask.about = Some(&about);
            ask.if_match = tag;
            ask.body = match tail {
                Some((part, source)) => Body::of(source, part.range.clone()),
                None => Body::Empty,
            };
            self.uploads.sends(&key, stamp);
            let (error, void) = match self.send(&ask).await {
                Ok(answer) if answer.is_success() => {
                    let etag = answer.header("etag").and_then(row::tag);
                    answer.drain().await;
                    return self.completed(up, new, &key, etag, tag, &about).await;
                }
                Ok(answer) => {
                    let void = matches!(answer.status(), 400 | 404 | 409 | 410 | 412 | 422);
                    (answer.into_error().await, void)
                }
                Err(error) => (error, false),
            };
            if !void && !is_lost(&error) {
                return Err(strange(error));
            }
            let now = match self.head(&key, OP).await {
                Ok(now) => now,
                Err(_) => return Err(strange(error)),
            };
            if ours(now) {
                return self.completed(up, new, &key, None, tag, &about).await;
            }
            if now.and_then(|id| id.0) != tag || now.is_some() != tag.is_some() {
                let kind = match new.exclusive {
                    true => ErrorKind::Exists,
                    false => ErrorKind::Conflict,
                };
                return Err(Error { kind, ..error });
            }
            // Nothing was committed. With its parts still there it is once more.
            let there = self.numbers(&key, None).await.unwrap_or_default();
            let whole = (1..=parts as u32).all(|number| there.contains(&number));
            if !whole {
                return Err(Error {
                    kind: ErrorKind::Restart,
                    ..error
                });
            }
            if !std::mem::take(&mut again) {
                let kind = if void { ErrorKind::Restart } else { error.kind };
                return Err(Error { kind, ..error });
            }
        }
    }

    async fn completed(
        &self,
        up: &Upload,
        new: &New,
        key: &str,
        etag: Option<u64>,
        tag: Option<u64>,
        about: &About,
    ) -> Result<Entry> {
        let entry = self.confirm(new, key, etag, tag, about).await?;
        self.uploads.free(key, &up.id);
        Ok(entry)
    }

    pub(super) async fn give_up(&self, up: &Upload, new: &New) -> Result<()> {
        const OP: &str = "give up upload";
        let key = key_of(new);
        let _turn = self.uploads.turn(&key, &up.id);
        let (tag, stamp) = told(up, new);
        for tag in [tag, None] {
            let answer = self
                .step(&key, "?upload=abort", tag, new, stamp, OP)
                .await?;
            if answer.is_success() || answer.status() == 404 {
                answer.drain().await;
                return Ok(());
            }
            let refused = matches!(answer.status(), 400 | 409 | 412);
            let error = answer.into_error().await;
            if !refused || tag.is_none() {
                return if refused { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }

    /// The numbers of the parts that are there, made at `since` or later.
    async fn numbers(&self, key: &str, since: Option<i64>) -> Result<HashSet<u32>> {
        const OP: &str = "list parts";
        let answer = self
            .send(&self.ask(Method::GET, "fileslist", key, "", OP)?)
            .await?;
        match answer.status() {
            200 => {}
            404 => {
                answer.drain().await;
                return Ok(HashSet::new());
            }
            _ => return Err(answer.into_error().await),
        }
        let rows: Vec<Listed> = answer.json(1 << 20).await?;
        let ms = |row: &Listed| match &row.created {
            Some(Value::Number(ms)) => ms.as_i64(),
            Some(Value::String(text)) => row::time(text),
            _ => None,
        };
        let young = |row: &&Listed| match (since, ms(row)) {
            (Some(since), Some(made)) => made >= since,
            _ => true,
        };
        Ok(rows.iter().filter(young).map(|row| row.number).collect())
    }

    /// The parts of an upload. Their sizes are not told, and they have no id: parts that are older than
    /// the upload are somebody else's.
    pub(super) async fn parts_there(&self, up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        let key = key_of(new);
        let began = up.extra.get(BEGAN).and_then(|ms| ms.parse::<i64>().ok());
        let numbers = self.numbers(&key, began).await?;
        if numbers.is_empty() {
            return Err(Error::new(ErrorKind::Restart, "list parts").at(key));
        }
        self.uploads.take(&key, &up.id, "list parts").await?;
        let mut numbers: Vec<u32> = numbers.into_iter().filter(|n| *n > 0).collect();
        numbers.sort_unstable();
        let receipt = |number: u32| Receipt {
            part: Part {
                index: number - 1,
                range: up.cut.part(number - 1),
            },
            token: String::new(),
        };
        Ok(numbers.into_iter().map(receipt).collect())
    }
}

/// The etag that an upload replaces and the timestamp that it sends.
fn told(up: &Upload, new: &New) -> (Option<u64>, i64) {
    let number = |name: &str| up.extra.get(name).and_then(|text| text.parse().ok());
    let tag = up.extra.get(TAG).and_then(|text| text.parse().ok());
    let stamp = new.attrs.mtime.map(row::millis);
    (tag, stamp.or_else(|| number(STAMP)).unwrap_or_default())
}
