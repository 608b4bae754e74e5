//! What a write does when the spool has no room for it: it is slowed, waits for its turn or for uploads, and
//! is refused when nothing moves any more.

use super::Vfs;
use crate::error::{Error, Kind, Result};
use crate::write::{Flight, Last, Room, Writer};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether there is still hope.
const TICK: Duration = Duration::from_millis(100);

/// Whether room will be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hope {
    /// Nothing that is in the spool can leave it.
    None,
    /// Something can, if the store takes it.
    Waits,
    /// Something is being made ready, here.
    Works,
}

impl Vfs {
    /// Writes all of `bytes` at `offset` as soon as there is room for them, or says `Full`: at once if
    /// nothing in the spool can leave it, else when nothing has moved for `stall_timeout`.
    pub(super) async fn write_in_room(
        &self,
        writer: &Writer,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let (spool, len) = (&self.write.spool, bytes.len() as u64);
        let mut slowed = false;
        let (mut moved, mut since) = (spool.stirred(), Instant::now());
        loop {
            let freed = spool.freed();
            let room = writer.room(offset, len);
            let may = match room {
                Room::Free | Room::Never => true,
                Room::Slow(_) => slowed || self.hope(writer) == Hope::None,
                Room::Turn | Room::Full => false,
            };
            if may {
                match self.write_to(writer, offset, bytes) {
                    // Somebody else was faster.
                    Err(error)
                        if error.kind == Kind::Full
                            && matches!(
                                writer.room(offset, len),
                                Room::Turn | Room::Full | Room::Slow(_)
                            ) => {}
                    done => return done,
                }
            }
            if let Room::Slow(pause) = room
                && !slowed
            {
                slowed = true;
                tokio::time::sleep(pause).await;
                continue;
            }
            self.check_writable()?;
            self.send_deferred();
            let hope = match room {
                Room::Turn => Hope::Waits,
                _ => self.hope(writer),
            };
            let now = spool.stirred();
            if now != moved || hope == Hope::Works {
                (moved, since) = (now, Instant::now());
            }
            let waited = since.elapsed();
            if hope == Hope::None || waited >= self.options.stall_timeout {
                let mut error = Error::new(Kind::Full, "write to spool");
                error.elapsed = waited;
                return Err(error.said(match hope {
                    Hope::None => "the spool is full (spool_max), and nothing in it can be sent",
                    _ => "the spool is full (spool_max), and no upload has moved for stall_timeout",
                }));
            }
            let _ = tokio::time::timeout(TICK.min(self.options.stall_timeout), freed).await;
        }
    }

    fn hope(&self, writer: &Writer) -> Hope {
        let mut hope = Hope::None;
        for other in self.writers() {
            let (_, flight, last, _) = other.look();
            match flight {
                Flight::Sealing | Flight::Keeping => return Hope::Works,
                // Only created so far, and open: published at its last close.
                Flight::Parked if other.is_open() && !matches!(last, Last::Failed { .. }) => {}
                Flight::Uploading | Flight::Parked => hope = Hope::Waits,
                Flight::Idle => {}
            }
        }
        if self.write.spool.is_anothers_turn(writer.ino()) {
            return Hope::Waits;
        }
        hope
    }

    /// What waits for its final name is sent under the one it has.
    fn send_deferred(&self) {
        for writer in self.writers() {
            if writer.parked().is_some_and(|(_, deferred)| deferred) {
                writer.set_deferred(false);
            }
        }
    }
}
