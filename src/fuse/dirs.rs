//! Open directories: the rows as they were when reading began.

use crate::error::Result;
use crate::store::Kind as EntryKind;
use crate::vfs::{Listed, Vfs};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Rows = Arc<Vec<Listed>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Dirs {
    rows: Mutex<HashMap<u64, Rows>>,
    last: AtomicU64,
}

impl Dirs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Rows>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle.
    pub(super) fn open(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The handle is gone.
    pub(super) fn close(&self, fh: u64) {
        self.lock().remove(&fh);
    }

    /// The rows; read anew when reading begins (again) at the top.
    pub(super) async fn rows(&self, vfs: &Vfs, ino: u64, fh: u64, offset: u64) -> Result<Rows> {
        let known = self.lock().get(&fh).cloned();
        if let Some(rows) = known.filter(|_| offset > 0) {
            return Ok(rows);
        }
        let dots = [(".", ino), ("..", vfs.parent(ino))];
        let mut rows: Vec<Listed> = dots
            .into_iter()
            .map(|(name, ino)| Listed {
                ino,
                kind: EntryKind::Dir,
                name: name.to_owned(),
            })
            .collect();
        rows.extend(vfs.readdir(ino).await?);
        let rows = Arc::new(rows);
        self.lock().insert(fh, rows.clone());
        Ok(rows)
    }
}
