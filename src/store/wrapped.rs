//! The wrappers around a store, in their one order: `trace(retry(limit(store)))`.
//!
//! Retry stands outside limit so that a try that sleeps holds no permit; trace stands outside both,
//! so that it sees what the layers above see.

use super::limit::Limit;
use super::retry::Retry;
use super::trace::Trace;
use super::{RetrySettings, Stats, Store};
use std::sync::Arc;

/// How a store is wrapped. Plain data.
#[derive(Clone, Debug)]
pub struct WrapSettings {
    /// Upload requests in flight, at least 1.
    pub uploads: usize,
    /// Download requests in flight, at least 1.
    pub downloads: usize,
    /// Other requests in flight, at least 1; they never wait for uploads or downloads.
    pub others: usize,
    /// When and how long a request is tried again.
    pub retry: RetrySettings,
    /// Where everything is counted; the caller keeps a clone.
    pub stats: Arc<Stats>,
}

impl Default for WrapSettings {
    fn default() -> Self {
        WrapSettings {
            uploads: 4,
            downloads: 8,
            others: 4,
            retry: RetrySettings::default(),
            stats: Arc::default(),
        }
    }
}

/// `store` with limits, retries and counters around it.
#[must_use]
pub fn wrapped(store: Arc<dyn Store>, settings: &WrapSettings) -> Arc<dyn Store> {
    let limit = Arc::new(Limit::new(store, settings));
    let retry = Arc::new(Retry::new(
        limit,
        settings.retry.clone(),
        settings.stats.clone(),
    ));
    Arc::new(Trace::new(retry, settings.stats.clone()))
}
