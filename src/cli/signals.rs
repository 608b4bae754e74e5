//! SIGTERM, SIGINT and SIGHUP: each asks for the end.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for the end.
#[derive(Debug)]
pub(super) struct Signals([Signal; 3]);

impl Signals {
    /// Takes them from now on.
    ///
    /// # Errors
    /// A sentence if the system does not let us.
    pub(super) fn new() -> Result<Self, String> {
        let take = |kind| signal(kind).map_err(|why| format!("cannot take signals: {why}"));
        Ok(Signals([
            take(SignalKind::terminate())?,
            take(SignalKind::interrupt())?,
            take(SignalKind::hangup())?,
        ]))
    }

    /// Resolves at the next one.
    pub(super) async fn next(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}
