//! Multipart uploads: parts in any order and in parallel, visible only when completed.
//!
//! Where the documentation is silent: a part that is sent again replaces the first one; `totalSize`,
//! `totalParts` and the path must be the same for all parts of an id; an id is gone once completed.

use super::address::Address;
use super::{Directory, No, length_of};
use crate::serve::body::receive;
use crate::serve::disk::{Mode, blocking};
use crate::serve::staging::{PartWriter, Parts, Refused};
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The largest part, and number of parts: 32 bits, signed.
const MOST: u64 = i32::MAX as u64;

/// An upload that nobody touches for so long is forgotten when the next one begins.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The uploads under way, by id.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Upload>>);

#[derive(Clone, Debug)]
struct Upload {
    path: String,
    /// Of the first part that had one.
    media: Option<String>,
    parts: Arc<Parts>,
}

impl Uploads {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The six arguments of a part, checked against each other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PartArguments {
    id: String,
    index: u32,
    offset: u64,
    total_size: u64,
    part_size: u64,
    total_parts: u32,
}

impl PartArguments {
    fn parse(address: &Address) -> Result<PartArguments, No> {
        let number = |name: &str, most: u64| {
            let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
            let value = address
                .get(name)
                .filter(digits)
                .and_then(|text| text.parse::<u64>().ok());
            value
                .filter(|n| *n <= most)
                .ok_or(No::bad("A multipart argument is missing or invalid."))
        };
        let arguments = PartArguments {
            id: id(address)?,
            index: number("index", MOST)? as u32,
            offset: number("offset", i64::MAX as u64)?,
            total_size: number("totalSize", i64::MAX as u64)?,
            part_size: number("partSize", MOST)?,
            total_parts: number("totalParts", MOST)? as u32,
        };
        let PartArguments {
            index,
            offset,
            total_size,
            part_size,
            total_parts,
            ..
        } = arguments;
        if index >= total_parts {
            return Err(No::bad("index is out of range."));
        }
        if offset + part_size > total_size {
            return Err(No::bad("offset is out of range."));
        }
        if part_size == 0 && total_size > 0 {
            return Err(No::bad("partSize is invalid."));
        }
        Ok(arguments)
    }
}

fn id(address: &Address) -> Result<String, No> {
    let id = address.get("id").filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or(No::bad("id is missing."))
}

impl From<Refused> for No {
    fn from(refused: Refused) -> No {
        No::bad(match refused {
            Refused::Overlap => "The part overlaps another part.",
            Refused::Incomplete => "The upload is not complete.",
            Refused::Closing => "The upload is being completed.",
        })
    }
}

impl Directory {
    pub(super) async fn multipart(
        self: Arc<Self>,
        body: Body,
        address: Address,
        media: Option<String>,
    ) -> Result<Response, No> {
        match address.get("multipart") {
            Some("upload") => self.part(body, address, media).await,
            Some("complete") => self.complete(address, media).await,
            _ => Err(No::bad("multipart is invalid.")),
        }
    }

    async fn part(
        self: Arc<Self>,
        body: Body,
        address: Address,
        media: Option<String>,
    ) -> Result<Response, No> {
        let arguments = PartArguments::parse(&address)?;
        let size = arguments.part_size;
        if length_of(&body).is_some_and(|length| length != size) {
            return Err(No::bad("partSize is not the size of the body."));
        }
        let begin = move || self.begin(&arguments, address.path, media);
        let writer = blocking(begin).await??;
        let (writer, received) = receive(body, writer, size, PartWriter::put).await?;
        if received != size {
            return Err(No::bad("partSize is not the size of the body."));
        }
        // Not waited for: the answer does not depend on it, and completing does it too.
        tokio::task::spawn_blocking(move || writer.finish());
        Ok(StatusCode::OK.into_response())
    }

    /// Finds or makes the upload and begins the part.
    fn begin(
        &self,
        arguments: &PartArguments,
        path: String,
        media: Option<String>,
    ) -> Result<PartWriter, No> {
        self.disk.check(&path, Mode::Either)?;
        let parts = {
            let mut uploads = self.uploads.all();
            if !uploads.contains_key(&arguments.id) {
                uploads.retain(|_, upload| upload.parts.touched().elapsed() < ABANDONED);
                let staged = self.disk.stage()?;
                let parts = Parts::new(staged, arguments.total_size, arguments.total_parts)?;
                let upload = Upload {
                    path: path.clone(),
                    media: None,
                    parts: Arc::new(parts),
                };
                uploads.insert(arguments.id.clone(), upload);
            }
            let Some(upload) = uploads.get_mut(&arguments.id) else {
                unreachable!("inserted")
            };
            if upload.path != path {
                return Err(No::bad("The id belongs to another path."));
            }
            let totals = (upload.parts.total(), upload.parts.count());
            if totals != (arguments.total_size, arguments.total_parts) {
                return Err(No::bad(
                    "totalSize or totalParts differ from those of the first part.",
                ));
            }
            if upload.media.is_none() {
                upload.media = media;
            }
            upload.parts.clone()
        };
        Ok(parts.begin(arguments.index, arguments.offset, arguments.part_size)?)
    }

    async fn complete(
        self: Arc<Self>,
        address: Address,
        media: Option<String>,
    ) -> Result<Response, No> {
        let id = id(&address)?;
        let upload = self.uploads.all().get(&id).cloned();
        let upload = upload.ok_or(No::bad("There is no such upload."))?;
        if upload.path != address.path {
            return Err(No::bad("The id belongs to another path."));
        }
        let commit = move || -> Result<(), No> {
            let digests = upload.parts.finish()??;
            let media = media.or(upload.media);
            let staged = upload.parts.staged();
            let done = self.disk.commit(
                staged,
                digests,
                &upload.path,
                Mode::Either,
                media.as_deref(),
            );
            if let Err(refusal) = done {
                upload.parts.reopen();
                return Err(refusal.into());
            }
            self.uploads.all().remove(&id);
            Ok(())
        };
        // In a task of its own: a client that leaves must not stop it half-way between the two maps.
        blocking(commit).await??;
        Ok(StatusCode::OK.into_response())
    }
}
