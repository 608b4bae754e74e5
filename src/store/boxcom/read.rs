//! Reads (spec, section 9): the API gives a link that lives some minutes and authorizes itself; ranges are
//! asked of it without the token, again and again.

use super::ask::Ask;
use super::refusal::refusal;
use super::*;

const OP: &str = "read";

/// Most links that are remembered.
const LINKS_MAX: usize = 4096;

/// How long a content that is not ready yet is waited for, if the service does not say.
const NOT_READY: Duration = Duration::from_secs(1);

/// A download link: as good as a credential.
#[derive(Clone)]
pub(super) struct Link {
    url: Url,
    made: Instant,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link(..)")
    }
}

/// What the API gives for a content.
enum Way {
    Link(Link),
    /// The bytes themselves, for the range that was asked for.
    Bytes(Answer),
}

impl BoxCom {
    pub(super) async fn read_range(
        &self,
        entry: &Entry,
        range: Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let id = names::file_id(&entry.addr, OP)?;
        if range.is_empty() || range.end > entry.size {
            return Err(Error::new(ErrorKind::Invalid, OP)
                .at(&*entry.name)
                .said("a range outside the file"));
        }
        let key = (id.to_owned(), entry.version.clone());
        let kept = lock(&self.links).get(&key).cloned();
        let kept = kept.filter(|link| link.made.elapsed() < self.config.link_life);
        if let Some(link) = kept {
            // A link that does not lead to anything any more is asked for anew, once.
            match self.follow(&link, entry, &range).await {
                Ok(answer) if matches!(answer.status(), 200 | 206) => {
                    return self.take(answer, entry, &range, sink).await;
                }
                Ok(answer) if !matches!(answer.status(), 401 | 403 | 404 | 410) => {
                    return Err(self.read_refused(answer, entry).await);
                }
                Err(error) if error.kind != ErrorKind::Unreachable => return Err(error),
                _ => {
                    lock(&self.links).remove(&key);
                }
            }
        }
        let link = match self.way(id, entry, &range).await? {
            Way::Bytes(answer) => return self.take(answer, entry, &range, sink).await,
            Way::Link(link) => link,
        };
        let answer = self.follow(&link, entry, &range).await?;
        if !matches!(answer.status(), 200 | 206) {
            return Err(self.read_refused(answer, entry).await);
        }
        {
            let mut links = lock(&self.links);
            if links.len() >= LINKS_MAX {
                links.clear();
            }
            links.insert(key, link);
        }
        self.take(answer, entry, &range, sink).await
    }

    /// Asks for a link to exactly this version.
    async fn way(&self, id: &str, entry: &Entry, range: &Range<u64>) -> Result<Way> {
        loop {
            let version = Item::version_id(&entry.version)
                .filter(|_| !self.unversioned.load(Ordering::Relaxed));
            let path = match version {
                Some(version) => format!("files/{id}/content?version={version}"),
                None => format!("files/{id}/content"),
            };
            let ask = self.ask(Method::GET, &self.config.api, &path, OP, &entry.name)?;
            let ask = ranged(ask, range);
            let answer = self.send(&ask).await?;
            match answer.status() {
                200 | 206 => return Ok(Way::Bytes(answer)),
                202 => {
                    let wait = answer.retry_after().unwrap_or(NOT_READY);
                    let busy = answer.fault(ErrorKind::Busy, "the content is not ready yet");
                    answer.drain().await;
                    return Err(busy.after(Some(wait)));
                }
                301 | 302 | 303 | 307 | 308 => {
                    let odd = |words| answer.fault(ErrorKind::Protocol, words);
                    let to = answer
                        .header("location")
                        .ok_or_else(|| odd("no Location"))?;
                    let url = ask
                        .url
                        .join(to)
                        .map_err(|_| odd("no address in Location"))?;
                    // Never from TLS into the clear.
                    if url.scheme() != "https" && url.scheme() != ask.url.scheme() {
                        return Err(odd("a link without TLS"));
                    }
                    answer.drain().await;
                    let made = Instant::now();
                    return Ok(Way::Link(Link { url, made }));
                }
                400 | 403 | 404 if version.is_some() => {
                    // Versions need a plan that has them; or this one is gone.
                    let no = refusal(answer).await;
                    let now = self.item(&entry.addr, OP).await?;
                    match now {
                        None => return Err(no.error_as(ErrorKind::NotFound)),
                        Some(now) if now.version() != entry.version => {
                            return Err(no.error_as(ErrorKind::Stale));
                        }
                        Some(_)
                            if no.status == 403
                                && no.code != WITHOUT_PLAN
                                && !no.code.is_empty() =>
                        {
                            return Err(no.error);
                        }
                        Some(_) => {
                            log::info!("older versions cannot be read here");
                            self.unversioned.store(true, Ordering::Relaxed);
                        }
                    }
                }
                _ => return Err(self.read_refused(answer, entry).await),
            }
        }
    }

    /// Asks a link for a range, without the token.
    async fn follow(&self, link: &Link, entry: &Entry, range: &Range<u64>) -> Result<Answer> {
        self.client
            .request(Method::GET, link.url.clone(), OP, &entry.name)
            .range(range)
            .send()
            .await
    }

    async fn read_refused(&self, answer: Answer, entry: &Entry) -> Error {
        let status = answer.status();
        let no = refusal(answer).await;
        match status {
            // The link has no file any more: what there is now is another version, or nothing.
            404 | 410 => match self.item(&entry.addr, OP).await {
                Ok(Some(now)) if now.version() == entry.version => no.error_as(ErrorKind::Broken),
                Ok(Some(_)) => no.error_as(ErrorKind::Stale),
                Ok(None) => no.error_as(ErrorKind::NotFound),
                Err(error) => error,
            },
            _ => no.error,
        }
    }

    /// Takes the bytes of an answer, if they are those of the version.
    async fn take(
        &self,
        answer: Answer,
        entry: &Entry,
        range: &Range<u64>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        if answer.is_coded() {
            let words = "the answer is compressed, which was not asked for";
            return Err(answer.fault(ErrorKind::Protocol, words));
        }
        let skip = skip_for_range(
            answer.status(),
            answer.header("content-range"),
            answer.length().filter(|_| answer.status() == 200),
            range,
            entry.size,
            false,
        )
        .map_err(|e| e.at(&*entry.name))?;
        // Without a version in the link, whose bytes are on their way is only known from a look after they
        // have set out.
        let versioned =
            Item::version_id(&entry.version).is_some() && !self.unversioned.load(Ordering::Relaxed);
        if !versioned {
            match self.item(&entry.addr, OP).await? {
                Some(now) if now.version() == entry.version => {}
                Some(_) => return Err(Error::new(ErrorKind::Stale, OP).at(&*entry.name)),
                None => return Err(Error::new(ErrorKind::NotFound, OP).at(&*entry.name)),
            }
        }
        answer.into_sink(skip, range.end - range.start, sink).await
    }
}

/// How a plan without versions may refuse one.
const WITHOUT_PLAN: &str = "access_denied_insufficient_permissions";

fn ranged<'a>(ask: Ask<'a>, range: &Range<u64>) -> Ask<'a> {
    ask.header("range", format!("bytes={}-{}", range.start, range.end - 1))
}
