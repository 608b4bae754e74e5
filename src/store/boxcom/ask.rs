//! Single requests, with a token that is renewed when it is refused.

use super::item::{FIELDS, Item};
use super::refusal::{Refusal, refusal};
use super::*;
use serde_json::Value;

/// Most bytes of an answer about one item.
pub(super) const ITEM_MAX: usize = 1 << 20;

/// How long the server may think about a request: a large folder's move or deletion answers late.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// One request, as plain data: it can be sent again with another token.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) op: &'static str,
    /// For people.
    pub(super) what: &'a str,
    pub(super) body: Body<'a>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) answer_within: Option<Duration>,
}

impl<'a> Ask<'a> {
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn json(mut self, value: &Value) -> Self {
        self.body = Body::Bytes(value.to_string().into());
        self.header("content-type", "application/json")
    }

    /// Only over the version with this etag.
    pub(super) fn if_match(self, tag: Option<&str>) -> Self {
        match tag {
            Some(tag) => self.header("if-match", tag),
            None => self,
        }
    }
}

/// An answer that is a success, or a refusal.
pub(super) enum Said {
    Yes(Answer),
    No(Refusal),
}

impl BoxCom {
    /// A request below one of the bases.
    pub(super) fn ask<'a>(
        &self,
        method: Method,
        base: &Url,
        path: &str,
        op: &'static str,
        what: &'a str,
    ) -> Result<Ask<'a>> {
        let target = format!("{}/{path}", base.as_str().trim_end_matches('/'));
        self.ask_at(method, &target, op, what)
    }

    /// A request at an address that the service gave.
    pub(super) fn ask_at<'a>(
        &self,
        method: Method,
        target: &str,
        op: &'static str,
        what: &'a str,
    ) -> Result<Ask<'a>> {
        let wrong = |kind| Error::new(kind, op).at(what);
        let url = Url::parse(target).map_err(|e| wrong(ErrorKind::Protocol).because(e))?;
        // A token does not leave in the clear where it did not come so.
        if url.scheme() != "https" && url.scheme() != self.config.api.scheme() {
            return Err(wrong(ErrorKind::Protocol).said("the service gave an address without TLS"));
        }
        Ok(Ask {
            method,
            url,
            op,
            what,
            body: Body::None,
            headers: Vec::new(),
            answer_within: None,
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

    /// As [`BoxCom::send`], with a refusal read.
    pub(super) async fn tell(&self, ask: &Ask<'_>) -> Result<Said> {
        let answer = self.send(ask).await?;
        Ok(match answer.status() {
            200..=299 => Said::Yes(answer),
            _ => Said::No(refusal(answer).await),
        })
    }

    async fn send_as(&self, ask: &Ask<'_>, token: Option<&Secret>) -> Result<Answer> {
        let mut request = self
            .client
            .request(ask.method.clone(), ask.url.clone(), ask.op, ask.what)
            .body(ask.body.clone());
        if let Some(token) = token {
            request = request.bearer(token);
        }
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(limit) = ask.answer_within {
            request = request.answer_within(limit);
        }
        request.send().await
    }

    /// The item at an address, fresh; nothing if it is gone or in the trash.
    pub(super) async fn item(&self, addr: &Addr, op: &'static str) -> Result<Option<Item>> {
        let (kind, id) = match addr.0.split_once('/') {
            Some(("folder", id)) => ("folders", id),
            Some((_, id)) => ("files", id),
            None => return Err(Error::new(ErrorKind::Invalid, op).at(&*addr.0)),
        };
        let path = format!("{kind}/{id}?fields={FIELDS}");
        let ask = self.ask(Method::GET, &self.config.api, &path, op, &addr.0)?;
        match self.tell(&ask).await? {
            Said::Yes(answer) => {
                let value: Value = answer.json(ITEM_MAX).await?;
                let item = Item::of(&value).ok_or_else(|| odd(op, &addr.0))?;
                Ok(Some(item).filter(|item| !item.trashed))
            }
            Said::No(no) if no.error.kind == ErrorKind::NotFound => Ok(None),
            Said::No(no) => Err(no.error),
        }
    }

    /// The item that an answer describes, asked for again if it does not say enough.
    pub(super) async fn described(
        &self,
        answer: Answer,
        op: &'static str,
        what: &str,
    ) -> Result<Item> {
        let value: Value = answer.json(ITEM_MAX).await?;
        let item = Item::stored(&value).ok_or_else(|| odd(op, what))?;
        if item.is_whole() && item.parent.is_some() {
            return Ok(item);
        }
        let again = self.item(&names::addr(item.kind, &item.id), op).await?;
        again.ok_or_else(|| Error::new(ErrorKind::NotFound, op).at(what))
    }
}

/// An answer that describes no item.
pub(super) fn odd(op: &'static str, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, op)
        .at(what)
        .said("the answer describes no item")
}
