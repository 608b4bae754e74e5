//! Single requests to the service (spec, sections 4, 5 and 8), with a token that is renewed when it is
//! refused.

use super::row::{self, Id};
use super::*;

/// A request on its way may take a minute (spec, section 11), and the gateway a little to say so.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

/// The longest value of `Range`, in characters (spec, section 4).
const RANGE_MAX: usize = 32;

/// One request, as plain data: it can be sent again with another token.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) op: &'static str,
    pub(super) key: &'a str,
    pub(super) body: Body<'a>,
    pub(super) range: Option<&'a Range<u64>>,
    /// Of a PUT.
    pub(super) about: Option<&'a About>,
    pub(super) if_match: Option<u64>,
}

/// What is told with a content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct About {
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    pub(super) kind: Option<String>,
    pub(super) description: Option<String>,
}

impl IotFile {
    /// A request on a file; `service` is `files` or `fileslist`.
    pub(super) fn ask<'a>(
        &self,
        method: Method,
        service: &str,
        key: &'a str,
        query: &str,
        op: &'static str,
    ) -> Result<Ask<'a>> {
        let slash = if key.is_empty() { "" } else { "/" };
        let target = format!(
            "{}{service}/{}{slash}{}{query}",
            self.front,
            self.config.entity,
            encode_path(key)
        );
        let url = Url::parse(&target)
            .map_err(|e| Error::new(ErrorKind::Invalid, op).at(key).because(e))?;
        Ok(Ask {
            method,
            url,
            op,
            key,
            body: Body::None,
            range: None,
            about: None,
            if_match: None,
        })
    }

    /// Sends a request; once more with a new token if the first was refused.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Answer> {
        let Some(token) = &self.token else {
            return self.send_as(ask, None).await;
        };
        let secret = token.get().await?;
        let answer = self.send_as(ask, Some(&secret)).await?;
        if answer.status() == 401
            && let Some(fresh) = token.refused(&secret).await?
        {
            answer.drain().await;
            return self.send_as(ask, Some(&fresh)).await;
        }
        Ok(answer)
    }

    async fn send_as(&self, ask: &Ask<'_>, token: Option<&Secret>) -> Result<Answer> {
        let mut request = self
            .client
            .request(ask.method.clone(), ask.url.clone(), ask.op, ask.key)
            .answer_within(ANSWER_WITHIN)
            .body(ask.body.clone());
        if let Some(token) = token {
            request = request.bearer(token);
        }
        if let Some(range) = ask.range {
            request = request.range(range);
        }
        if let Some(tag) = ask.if_match {
            request = request.header("if-match", &tag.to_string());
        }
        let stamp = ask.about.map(|about| row::iso(about.timestamp));
        if let (Some(about), Some(stamp)) = (ask.about, &stamp) {
            request = request
                .header("content-type", "application/octet-stream")
                .header("timestamp", stamp);
            if let Some(kind) = &about.kind {
                request = request.header("type", kind);
            }
            if let Some(words) = &about.description {
                request = request.header("description", words);
            }
        }
        request.send().await
    }

    /// Reads a closed range, or, without one, the whole.
    pub(super) async fn get(
        &self,
        key: &str,
        range: Option<&Range<u64>>,
        op: &'static str,
    ) -> Result<Answer> {
        let long =
            |range: &&Range<u64>| format!("bytes={}-{}", range.start, range.end).len() > RANGE_MAX;
        if range.as_ref().is_some_and(long) {
            return Err(Error::new(ErrorKind::TooLarge, op)
                .at(key)
                .said("a place in the file that the service cannot be asked for"));
        }
        let mut ask = self.ask(Method::GET, "files", key, "", op)?;
        ask.range = range;
        self.send(&ask).await
    }

    /// Which content has a key now, by the head of a read, which no index delays; `None` if there is no
    /// file. The body is not waited for.
    pub(super) async fn head(&self, key: &str, op: &'static str) -> Result<Option<Id>> {
        let answer = self.get(key, None, op).await?;
        match answer.status() {
            200 => Ok(Some(id_of(&answer))),
            404 | 410 => {
                answer.drain().await;
                Ok(None)
            }
            _ => Err(answer.into_error().await),
        }
    }

    /// As [`IotFile::head`], asked at `moment` or later; those who ask at once share one answer.
    pub(super) async fn head_after(
        &self,
        key: &str,
        moment: Instant,
        op: &'static str,
    ) -> Result<Option<Id>> {
        let gate = {
            let mut heads = lock(&self.heads);
            heads.retain(|_, gate| Arc::strong_count(gate) > 1);
            heads.entry(key.to_owned()).or_default().clone()
        };
        let mut last = gate.lock().await;
        if let Some((asked, id)) = *last
            && asked >= moment
        {
            return Ok(id);
        }
        let asked = Instant::now();
        let id = self.head(key, op).await?;
        *last = Some((asked, id));
        Ok(id)
    }

    /// Whether a file has exactly `size` bytes, by a byte at its end and none behind it.
    pub(super) async fn prove_size(&self, key: &str, size: u64, op: &'static str) -> Result<()> {
        let differs = |words: String| Err(Error::new(ErrorKind::Mismatch, op).at(key).said(&words));
        for (at, inside) in [(size.wrapping_sub(1), true), (size, false)] {
            if size == 0 && inside {
                continue;
            }
            let answer = self.get(key, Some(&(at..at + 1)), op).await?;
            match (answer.status(), inside) {
                (206, true) | (416, false) => answer.drain().await,
                // The range was ignored: the length decides, if it is told.
                (200, _) => {
                    if answer.length().is_some_and(|length| length != size) {
                        return differs(format!("{size} bytes were sent"));
                    }
                }
                (206, false) => return differs(format!("more than the {size} bytes sent")),
                (416, true) => return differs(format!("less than the {size} bytes sent")),
                (404, _) => return differs("the server said yes, but does not have it".into()),
                _ => return Err(answer.into_error().await),
            }
        }
        Ok(())
    }
}

/// What the head of an answer tells of the content.
pub(super) fn id_of(answer: &Answer) -> Id {
    (
        answer.header("etag").and_then(row::tag),
        answer.header("timestamp").and_then(row::time),
    )
}
