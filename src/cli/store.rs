//! From a source to a store that was probed, and from its errors to sentences.

use crate::config::{Resolved, Source};
use crate::store::{Probe, Store};
use std::sync::Arc;

/// A store that answered.
#[derive(Debug)]
pub(super) struct Opened {
    /// The store, with its wrappers.
    pub(super) store: Arc<dyn Store>,
    /// What it is.
    pub(super) probe: Probe,
    /// The server inside this process, for a demo.
    pub(super) server: Option<()>,
}

/// Opens the store of a source.
///
/// # Errors
/// A sentence that says what to do.
pub(super) async fn open(resolved: &Resolved) -> Result<Opened, String> {
    match &resolved.source {
        Source::Proget(_) | Source::Demo(_) => Err("no store yet".to_owned()),
    }
}
