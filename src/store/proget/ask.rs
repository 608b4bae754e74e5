//! Requests to the service and the answers that describe items (spec, sections 2 to 5 and 13).

use super::item::{self, Item, Listing};
use super::names::split;
use super::*;

/// Most bytes of one item's JSON.
const ITEM_MAX: usize = 1024 * 1024;

/// What `metadata` says about a path.
pub(super) enum Look {
    Absent,
    Is(Entry),
    /// The server takes the name for this one (another case, a trailing dot, ...).
    Other(Entry),
}

/// One request, as plain data: it can be sent again with another credential.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) op: &'static str,
    pub(super) path: &'a str,
    pub(super) body: Body<'a>,
    pub(super) content_type: Option<&'a str>,
    pub(super) range: Option<&'a Range<u64>>,
    pub(super) answer_within: Option<Duration>,
}

impl ProGet {
    pub(super) fn ask<'a>(
        &self,
        method: Method,
        api: &str,
        path: &'a str,
        query: &str,
        op: &'static str,
    ) -> Result<Ask<'a>> {
        let target = format!(
            "{}{}/{api}/{}{query}",
            self.front,
            self.directory,
            encode_path(path)
        );
        let url = Url::parse(&target)
            .map_err(|e| Error::new(ErrorKind::Invalid, op).at(path).because(e))?;
        Ok(Ask {
            method,
            url,
            op,
            path,
            body: Body::None,
            content_type: None,
            range: None,
            answer_within: None,
        })
    }

    /// Sends a request; once more with a fresh credential if there is one and the first was refused.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Answer> {
        let (user, credential) = match &self.config.auth {
            Auth::Anonymous => return self.send_as(ask, None, None).await,
            Auth::Key(key) => (None, key),
            Auth::User { name, password } => (Some(name.as_str()), password),
        };
        let secret = credential.get().await?;
        let answer = self.send_as(ask, user, Some(&secret)).await?;
        if answer.status() == 401
            && let Some(fresh) = credential.refused(&secret).await?
        {
            answer.drain().await;
            return self.send_as(ask, user, Some(&fresh)).await;
        }
        Ok(answer)
    }

    async fn send_as(
        &self,
        ask: &Ask<'_>,
        user: Option<&str>,
        secret: Option<&Secret>,
    ) -> Result<Answer> {
        let mut request = self
            .client
            .request(ask.method.clone(), ask.url.clone(), ask.op, ask.path)
            .body(ask.body.clone());
        request = match (user, secret) {
            (Some(user), Some(password)) => request.basic(user, password).secret_header(
                "x-apikey",
                &Secret::new(&format!("{user}:{}", password.reveal())),
            ),
            (None, Some(key)) => request.secret_header("x-apikey", key),
            _ => request,
        };
        if let Some(kind) = ask.content_type {
            request = request.header("content-type", kind);
        }
        if let Some(range) = ask.range {
            request = request.range(range);
        }
        if let Some(limit) = ask.answer_within {
            request = request.answer_within(limit);
        }
        request.send().await
    }

    /// What `path` is, fresh. The root is not asked: it has no metadata (section 4).
    pub(super) async fn look(&self, path: &str, op: &'static str) -> Result<Look> {
        if path.is_empty() {
            return Ok(Look::Is(root_entry("")));
        }
        let Some(item) = self.item(path, op).await? else {
            return Ok(Look::Absent);
        };
        let (dir, name) = split(path);
        let entry = item.entry(dir, self.config.user_metadata).ok_or_else(|| {
            Error::new(ErrorKind::Protocol, op)
                .at(path)
                .said("an item without a possible name")
        })?;
        Ok(if entry.name == name {
            Look::Is(entry)
        } else {
            Look::Other(entry)
        })
    }

    pub(super) async fn item(&self, path: &str, op: &'static str) -> Result<Option<Item>> {
        let answer = self
            .send(&self.ask(Method::GET, "metadata", path, "", op)?)
            .await?;
        match answer.status() {
            200 => Ok(Some(answer.json(ITEM_MAX).await?)),
            404 => {
                answer.drain().await;
                Ok(None)
            }
            _ => Err(answer.into_error().await),
        }
    }

    /// A folder's items. A missing folder and a file are empty here (section 5).
    pub(super) async fn items(&self, dir: &str, op: &'static str) -> Result<Listing> {
        let answer = self
            .send(&self.ask(Method::GET, "dir", dir, "?recursive=false", op)?)
            .await?;
        match answer.status() {
            200 => {
                let (dir, attrs) = (dir.to_owned(), self.config.user_metadata);
                answer
                    .parse(move |body| item::listing(body, &dir, attrs))
                    .await
            }
            404 => {
                answer.drain().await;
                Ok(Listing::default())
            }
            _ => Err(answer.into_error().await),
        }
    }

    /// Replaces what we keep in the user metadata of `path`. `only_more`: nothing of ours is there
    /// that must go, so that other people's keys need not be read and written back.
    pub(super) async fn write_attrs(
        &self,
        path: &str,
        attrs: &Attrs,
        only_more: bool,
    ) -> Result<()> {
        const OP: &str = "set attributes";
        let mut all = serde_json::Map::new();
        if !only_more {
            let item = self.item(path, OP).await?;
            let item = item.ok_or_else(|| Error::new(ErrorKind::NotFound, OP).at(path))?;
            all.extend(
                (item.user_metadata.unwrap_or_default().into_iter())
                    .filter(|(key, _)| !attrs::is_ours(key)),
            );
        }
        all.extend(
            attrs::write(attrs)
                .into_iter()
                .map(|(key, value)| (key, value.into())),
        );
        let body = serde_json::json!({
            "userMetadataUpdateMode": if only_more { "update" } else { "replace" },
            "userMetadata": all,
        });
        let mut ask = self.ask(Method::POST, "metadata", path, "", OP)?;
        ask.content_type = Some("application/json");
        ask.body = Body::Bytes(body.to_string().into());
        let answer = self.send(&ask).await?;
        if !answer.is_success() {
            return Err(answer.into_error().await);
        }
        answer.drain().await;
        Ok(())
    }
}
