//! Folders and files as items: looking, listing, making, changing, deleting, copying, the trash, and the
//! preflight.

use super::shelf::{Deny, Row, Shelf, check_name};
use super::view::{Shape, digits, parse_time};
use super::{No, Service, empty, json_answer, json_body, query, text, value};
use crate::serve::disk::blocking;
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::Arc;

/// The most entries of a page, and what is given if nobody asks.
const PAGE: (usize, usize) = (1000, 100);

/// The highest offset.
const OFFSET_MAX: usize = 9999;

/// An id in a body.
pub(super) fn id_in(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok())
}

impl Service {
    /// Runs what the shelf does where it may block.
    pub(super) async fn on_shelf<T: Send + 'static>(
        self: &Arc<Self>,
        of_folder: bool,
        work: impl FnOnce(&Shelf) -> Result<T, Deny> + Send + 'static,
    ) -> Result<T, No> {
        let here = self.clone();
        let done = blocking(move || work(&here.shelf)).await?;
        done.map_err(|deny| self.denied(deny, of_folder))
    }

    pub(super) fn denied(&self, deny: Deny, of_folder: bool) -> No {
        match deny {
            Deny::No(no) => no,
            Deny::Taken(row) => self.taken(&row, of_folder),
        }
    }

    pub(super) fn shape(&self, request: &Request, default: Shape) -> Shape {
        Shape::of(value(&query(request), "fields"), default)
    }

    async fn shown(
        self: &Arc<Self>,
        status: u16,
        row: &Row,
        shape: &Shape,
    ) -> Result<Response, No> {
        let (id, dir) = (row.id, row.dir);
        let (row, above) = self.on_shelf(dir, move |shelf| shelf.get(id, dir)).await?;
        Ok(json_answer(status, &self.show(&row, &above, shape)))
    }

    pub(super) async fn get(
        self: &Arc<Self>,
        request: Request,
        id: u64,
        dir: bool,
    ) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let known = text(request.headers(), header::IF_NONE_MATCH).map(str::to_owned);
        let (row, above) = self.on_shelf(dir, move |shelf| shelf.get(id, dir)).await?;
        if known.is_some_and(|tag| tag.trim_matches('"') == row.etag.to_string()) {
            return Ok(empty(304, None));
        }
        Ok(json_answer(200, &self.show(&row, &above, &shape)))
    }

    pub(super) async fn list(self: &Arc<Self>, request: Request, id: u64) -> Result<Response, No> {
        let asked = query(&request);
        let shape = self.shape(&request, Shape::Mini);
        let bad = |code, words| No::new(400, code, words);
        let limit = match value(&asked, "limit") {
            None => PAGE.1,
            Some(text) => (text.parse().ok().filter(|n| (1..=PAGE.0).contains(n)))
                .ok_or_else(|| bad("invalid_limit", "Limit is not a valid number"))?,
        };
        let (folder, rows) = self.on_shelf(true, move |shelf| shelf.children(id)).await?;
        let show = |row: &Row| self.show(row, std::slice::from_ref(&folder), &shape);
        if is_true(&asked, "usemarker") {
            // A marker is the place behind the last entry, so that it stays good when others change.
            let key = |row: &Row| format!("{}{}", u8::from(!row.dir), row.name());
            let from = match value(&asked, "marker").filter(|marker| !marker.is_empty()) {
                None => 0,
                Some(marker) => {
                    let after = URL_SAFE_NO_PAD.decode(marker).ok();
                    let after = after.and_then(|bytes| String::from_utf8(bytes).ok());
                    let after = after.ok_or_else(|| bad("bad_request", "Not a marker"))?;
                    rows.partition_point(|row| key(row) <= after)
                }
            };
            let page = &rows[from..rows.len().min(from + limit)];
            let entries: Vec<Value> = page.iter().map(show).collect();
            let mut answer = json!({"entries": entries, "limit": limit});
            let more = from + page.len() < rows.len();
            let marker = page.last().filter(|_| more);
            let marker = marker.map(|row| URL_SAFE_NO_PAD.encode(key(row)).into());
            if let Some(marker) = marker.or_else(|| self.ways.last_marker.clone()) {
                answer["next_marker"] = marker;
            }
            return Ok(json_answer(200, &answer));
        }
        let offset = match value(&asked, "offset") {
            None => 0,
            Some(text) => (text.parse().ok().filter(|n| *n <= OFFSET_MAX))
                .ok_or_else(|| bad("invalid_offset", "Offset is not a valid number"))?,
        };
        let page = rows.iter().skip(offset).take(limit);
        Ok(json_answer(
            200,
            &json!({
                "total_count": rows.len(),
                "offset": offset,
                "limit": limit,
                "order": [{"by": "type", "direction": "ASC"}, {"by": "name", "direction": "ASC"}],
                "entries": page.map(show).collect::<Vec<_>>(),
            }),
        ))
    }

    pub(super) async fn make_folder(self: &Arc<Self>, request: Request) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let body = json_body(request).await?;
        let (parent, name) = place(&body)?;
        let row = self
            .on_shelf(true, move |shelf| shelf.make_folder(parent, &name))
            .await?;
        self.shown(201, &row, &shape).await
    }

    pub(super) async fn change(
        self: &Arc<Self>,
        request: Request,
        id: u64,
        dir: bool,
    ) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let tag = text(request.headers(), header::IF_MATCH).map(str::to_owned);
        let body = json_body(request).await?;
        let name = match &body["name"] {
            Value::Null => None,
            Value::String(name) => Some(name.clone()),
            _ => return Err(No::bad("The name is no text")),
        };
        let parent = match &body["parent"] {
            Value::Null => None,
            parent => Some(id_in(&parent["id"]).ok_or_else(|| No::bad("No parent"))?),
        };
        let modified = match body["content_modified_at"].as_str().filter(|_| !dir) {
            Some(text) => Some(parse_time(text)?),
            None => None,
        };
        let work = move |shelf: &Shelf| {
            shelf.change((id, dir), name.as_deref(), parent, modified, tag.as_deref())
        };
        let row = self.on_shelf(dir, work).await?;
        self.shown(200, &row, &shape).await
    }

    pub(super) async fn delete(
        self: &Arc<Self>,
        request: Request,
        id: u64,
        dir: bool,
    ) -> Result<Response, No> {
        let recursive = is_true(&query(&request), "recursive");
        let tag = text(request.headers(), header::IF_MATCH).map(str::to_owned);
        let work = move |shelf: &Shelf| shelf.delete((id, dir), recursive, tag.as_deref());
        self.on_shelf(dir, work).await?;
        Ok(empty(204, None))
    }

    pub(super) async fn restore(self: &Arc<Self>, id: u64, dir: bool) -> Result<Response, No> {
        let work = move |shelf: &Shelf| shelf.restore(id, dir);
        let (row, above) = self.on_shelf(dir, work).await?;
        Ok(json_answer(201, &self.show(&row, &above, &Shape::Standard)))
    }

    pub(super) async fn purge(self: &Arc<Self>, id: u64, dir: bool) -> Result<Response, No> {
        self.on_shelf(dir, move |shelf| shelf.purge(id, dir))
            .await?;
        Ok(empty(204, None))
    }

    pub(super) async fn copy(
        self: &Arc<Self>,
        request: Request,
        id: u64,
        dir: bool,
    ) -> Result<Response, No> {
        let shape = self.shape(&request, Shape::Standard);
        let body = json_body(request).await?;
        let parent = id_in(&body["parent"]["id"]).ok_or_else(|| No::bad("No parent"))?;
        let name = body["name"].as_str().map(str::to_owned);
        let work = move |shelf: &Shelf| shelf.copy((id, dir), parent, name.as_deref());
        let row = self.on_shelf(dir, work).await?;
        self.shown(201, &row, &shape).await
    }

    pub(super) async fn versions_of(self: &Arc<Self>, id: u64) -> Result<Response, No> {
        let versions = self
            .on_shelf(false, move |shelf| shelf.versions(id))
            .await?;
        let show =
            |version: &u64| json!({"type": "file_version", "id": digits(&self.ways, *version)});
        let entries: Vec<Value> = versions.iter().map(show).collect();
        let answer = json!({"total_count": entries.len(), "entries": entries});
        Ok(json_answer(200, &answer))
    }

    /// Whether a file could be uploaded; of a new version if `id` is given.
    pub(super) async fn preflight(
        self: &Arc<Self>,
        request: Request,
        id: Option<u64>,
    ) -> Result<Response, No> {
        let host = host(&request);
        let body = json_body(request).await?;
        let size = body["size"].as_u64().unwrap_or(0);
        let upload = match id {
            None => {
                let (parent, name) = place(&body)?;
                let work = move |shelf: &Shelf| shelf.check_free(parent, &name, None);
                self.on_shelf(false, work).await?;
                "files/content".to_owned()
            }
            Some(id) => {
                self.on_shelf(false, move |shelf| shelf.get(id, false))
                    .await?;
                format!("files/{id}/content")
            }
        };
        self.check_size(size).await?;
        let url = format!("http://{host}/api/2.0/{upload}?upload_session_id=1234");
        Ok(json_answer(
            200,
            &json!({"upload_url": url, "upload_token": null}),
        ))
    }

    /// Refuses what the account has no room for.
    pub(super) async fn check_size(self: &Arc<Self>, size: u64) -> Result<(), No> {
        if size > self.ways.size_max {
            let words = "File size exceeds the folder owner's file size limit";
            return Err(No::new(403, "file_size_limit_exceeded", words));
        }
        let Some(quota) = self.ways.quota else {
            return Ok(());
        };
        let used = self.on_shelf(false, |shelf| Ok(shelf.used()?)).await?;
        if used.saturating_add(size) > quota {
            let words = "Account storage limit reached";
            return Err(No::new(403, "storage_limit_exceeded", words));
        }
        Ok(())
    }
}

/// A switch in the query; the vendor's Python SDK writes it with a capital.
fn is_true(pairs: &[(String, String)], name: &str) -> bool {
    value(pairs, name).is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// The folder and the name in a body.
pub(super) fn place(body: &Value) -> Result<(u64, String), No> {
    let parent = id_in(&body["parent"]["id"]);
    let parent = parent.ok_or_else(|| No::bad("The parent is missing"))?;
    let name = body["name"].as_str();
    let name = name.ok_or_else(|| No::bad("The name is missing"))?;
    check_name(name)?;
    Ok((parent, name.to_owned()))
}

/// Where the client has reached this server.
pub(super) fn host(request: &Request) -> String {
    let host = text(request.headers(), header::HOST);
    host.unwrap_or("localhost").to_owned()
}
