//! ProGet asset directories (`specs/proget.md`; "section" below means there). Knows the service's
//! addresses and answers; knows nothing of spools, retries or FUSE.
//!
//! An address is the path within the asset directory, without slashes at its ends; its root is the
//! empty path. A version is the SHA-1 of the content, or size and time where the server sends none.
//!
//! The functions of [`Store`] stand in the trait's order; uploads are in `proget/upload.rs`.

mod ask;
mod attrs;
mod config;
mod item;
mod names;
mod upload;

pub use config::{Auth, Config};

use super::*;
use crate::error::{Error, Kind as ErrorKind};
use crate::http::{Answer, Body, Client, Method, Secret, Url, encode, encode_path, skip_for_range};
use ask::Look;
use item::SYMLINK_TYPE;
use names::{join, split};
use sha2::{Digest, Sha256};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// A ProGet asset directory.
#[derive(Debug)]
pub struct ProGet {
    config: Config,
    client: Client,
    caps: Caps,
    /// `scheme://host/prefix/endpoints/`, and the encoded directory.
    front: String,
    directory: String,
    uploads: upload::Memory,
}

impl ProGet {
    /// A store that has not been asked anything yet.
    pub fn new(config: Config) -> Result<Self> {
        let client = Client::new(&config.http, &config.base)?;
        let part_size = config.part_size.clamp(1024, (1 << 31) - 1);
        let keeps = config.user_metadata;
        let caps = Caps {
            name: "ProGet",
            one_shot_max: part_size,
            size_at: At::Start,
            digest_at: None,
            digests: &[Algo::Sha1, Algo::Sha256, Algo::Md5],
            parallel_parts: config.parallel_parts,
            replaces_parts: false,
            tail_in_finish: false,
            parts_max: i32::MAX as u32,
            resume: false,
            abort: false,
            // A job ends unfinished uploads; it runs every 16.67 minutes, the age is not told.
            idle: Some(Duration::from_secs(300)),
            rename_file: false,
            rename_dir: false,
            rename_replaces: false,
            empty_dirs: true,
            dirs: true,
            // By PUT, up to one part; above that by our look just before the commit.
            exclusive_create: true,
            conditional_replace: false,
            case_folds: config.case_fold,
            space: false,
            size_max: None,
            keeps: Keeps {
                mtime: keeps.then_some(Duration::from_nanos(1)),
                mode: keeps,
                xattrs: keeps,
                symlinks: true,
                on_dirs: false,
            },
        };
        let front = format!("{}/endpoints/", config.base.as_str().trim_end_matches('/'));
        let directory = encode(&config.directory);
        Ok(ProGet {
            uploads: upload::Memory::new(part_size, config.parallel_parts),
            config,
            client,
            caps,
            front,
            directory,
        })
    }

    /// The client, for its counters.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A short name of whose store it is: the user, or a fingerprint of the key.
    async fn account(&self) -> Result<String> {
        Ok(match &self.config.auth {
            Auth::Anonymous => "anonymous".to_owned(),
            Auth::User { name, .. } => format!("user {name}"),
            Auth::Key(key) => {
                let digest = Sha256::digest(key.get().await?.reveal());
                let hex: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
                format!("key {hex}")
            }
        })
    }
}

/// The root, which the server does not describe.
fn root_entry(path: &str) -> Entry {
    Entry {
        addr: path.into(),
        name: split(path).1.to_owned(),
        kind: Kind::Dir,
        size: 0,
        version: "".into(),
        tag: None,
        modified: SystemTime::UNIX_EPOCH,
        created: None,
        digests: Digests::default(),
        attrs: Attrs::default(),
        content_type: None,
    }
}

#[async_trait]
impl Store for ProGet {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn check_name(&self, dir: &Addr, name: &str) -> Result<()> {
        let around = self.front.len() + self.directory.len() + "/metadata/".len();
        names::check(dir, name, around)
    }

    async fn probe(&self) -> Result<Probe> {
        const OP: &str = "reach the store";
        let at = format!("{}{}", self.front, self.directory);
        let mut answer = self
            .send(&self.ask(Method::GET, "dir", "", "?recursive=false", OP)?)
            .await
            .map_err(|e| e.at(at.as_str()))?;
        match answer.status() {
            200 => {}
            401 | 403 => {
                let words = answer.words().await;
                log::debug!("{at}: {words}");
                return Err(answer
                    .error_with(
                        "check the API key (or user and password), and that it may view this asset directory",
                    )
                    .at(at));
            }
            404 => {
                return Err(answer
                    .error_with(&format!(
                        "there is no asset directory \"{}\" here: check its name, and that it is an asset directory",
                        self.config.directory
                    ))
                    .at(at));
            }
            _ => return Err(answer.into_error().await.at(at)),
        }
        let version = answer.header("x-proget-version").unwrap_or("?").to_owned();
        // A root can list a million items; that it begins to do so is enough.
        let begins = loop {
            let Some(bytes) = answer.chunk().await? else {
                break None;
            };
            if let Some(byte) = bytes.iter().find(|b| !b.is_ascii_whitespace()) {
                break Some(*byte);
            }
        };
        if begins != Some(b'[') {
            return Err(answer
                .fault(
                    ErrorKind::Protocol,
                    "what answers here is no ProGet asset directory",
                )
                .at(at));
        }
        let folder = self.config.folder.as_str();
        match self.look(folder, OP).await? {
            Look::Is(entry) if entry.kind == Kind::Dir => {}
            Look::Is(_) => return Err(Error::new(ErrorKind::NotDir, OP).at(format!("/{folder}"))),
            Look::Other(entry) => {
                return Err(Error::new(ErrorKind::NotFound, OP)
                    .at(format!("/{folder}"))
                    .said(&format!("the server has \"{}\"", entry.name)));
            }
            Look::Absent => {
                return Err(Error::new(ErrorKind::NotFound, OP)
                    .at(format!("/{folder}"))
                    .said("there is no such folder in the asset directory"));
            }
        }
        Ok(Probe {
            root: folder.into(),
            account: self.account().await?,
            banner: format!(
                "ProGet {version}, asset directory \"{}\" at {}",
                self.config.directory, self.config.base
            ),
        })
    }

    async fn stat(&self, place: &Place) -> Result<Entry> {
        let path = join(&place.dir.0, &place.name);
        match self.look(&path, "stat").await? {
            Look::Is(entry) => Ok(entry),
            Look::Absent | Look::Other(_) => Err(Error::new(ErrorKind::NotFound, "stat").at(path)),
        }
    }

    async fn list(&self, dir: &Addr) -> Result<Vec<Entry>> {
        let listing = self.items(&dir.0, "list").await?;
        if listing.items == 0 {
            // A missing folder lists as an empty one.
            match self.look(&dir.0, "list").await? {
                Look::Is(entry) if entry.kind == Kind::Dir => {}
                Look::Is(_) => return Err(Error::new(ErrorKind::NotDir, "list").at(&*dir.0)),
                _ => return Err(Error::new(ErrorKind::NotFound, "list").at(&*dir.0)),
            }
        }
        Ok(listing.entries)
    }

    async fn read(&self, entry: &Entry, range: Range<u64>, sink: &mut dyn Sink) -> Result<()> {
        const OP: &str = "read";
        let path = &*entry.addr.0;
        if range.is_empty() || range.end > entry.size {
            return Err(Error::new(ErrorKind::Invalid, OP)
                .at(path)
                .said("a range outside the file"));
        }
        let mut ask = self.ask(Method::GET, "content", path, "", OP)?;
        ask.range = Some(&range);
        let answer = self.send(&ask).await?;
        match answer.status() {
            200 | 206 | 416 => {}
            400 => {
                let error = answer.into_error().await;
                return Err(match self.look(path, OP).await? {
                    Look::Is(e) if e.kind == Kind::Dir => Error::new(ErrorKind::IsDir, OP).at(path),
                    Look::Is(_) => error,
                    _ => Error::new(ErrorKind::NotFound, OP).at(path),
                });
            }
            _ => return Err(answer.into_error().await),
        }
        if answer.is_coded() {
            return Err(answer.fault(
                ErrorKind::Protocol,
                "the answer is compressed, which was not asked for",
            ));
        }
        let skip = skip_for_range(
            answer.status(),
            answer.header("content-range"),
            answer.length(),
            &range,
            entry.size,
            false,
        )
        .map_err(|e| e.at(path))?;
        let ours = entry.digests.0.get(&Algo::Sha1);
        let same = match (ours, answer.tag()) {
            (Some(sha1), Some(tag)) if item::is_hex(tag, 40) => {
                Some(sha1.eq_ignore_ascii_case(tag))
            }
            // Some storage has tags of another kind, or none: what the item says by now decides. It is
            // asked after the answer has begun, so that an answer of an older or newer version shows.
            _ => None,
        };
        let same = match same {
            Some(same) => same,
            None => match self.look(path, OP).await? {
                Look::Is(now) => now.version == entry.version,
                _ => return Err(Error::new(ErrorKind::NotFound, OP).at(path)),
            },
        };
        if !same {
            return Err(Error::new(ErrorKind::Stale, OP).at(path));
        }
        answer.into_sink(skip, range.end - range.start, sink).await
    }

    async fn put(&self, new: &New, source: &dyn Source) -> Result<Entry> {
        self.put_whole(new, source).await
    }

    async fn start(&self, new: &New) -> Result<Upload> {
        self.start_parts(new).await
    }

    async fn part(
        &self,
        up: &Upload,
        new: &New,
        part: &Part,
        source: &dyn Source,
    ) -> Result<Receipt> {
        self.send_part(up, new, part, source).await
    }

    async fn finish(
        &self,
        up: &Upload,
        new: &New,
        _receipts: &[Receipt],
        _tail: Option<(&Part, &dyn Source)>,
    ) -> Result<Entry> {
        self.complete(up, new).await
    }

    async fn abort(&self, up: &Upload, new: &New) -> Result<()> {
        self.give_up(up, new).await
    }

    async fn receipts(&self, _up: &Upload, new: &New) -> Result<Vec<Receipt>> {
        Err(Error::new(ErrorKind::Unsupported, "list parts").at(&*new.place.name))
    }

    async fn remove(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove";
        let path = &*entry.addr.0;
        match self.look(path, OP).await? {
            Look::Is(found) if found.kind == Kind::Dir => {
                return Err(Error::new(ErrorKind::IsDir, OP).at(path));
            }
            Look::Is(found) if found.version == entry.version => {}
            // DELETE of what is not there succeeds (section 9). What is there now came after ours.
            _ if self.uploads.doubtful(OP, path) => {
                self.uploads.settled(OP, path);
                return Ok(());
            }
            Look::Is(_) => return Err(Error::new(ErrorKind::Conflict, OP).at(path)),
            _ => return Err(Error::new(ErrorKind::NotFound, OP).at(path)),
        }
        let mut answer = self
            .send(&self.ask(Method::DELETE, "content", path, "", OP)?)
            .await;
        if answer.as_ref().is_ok_and(|a| a.status() == 405) {
            let mut ask = self.ask(Method::POST, "delete", path, "?recursive=false", OP)?;
            ask.body = Body::Empty;
            answer = self.send(&ask).await;
        }
        let done = self.gone(answer, path, OP).await;
        self.uploads.settle(OP, path, &done);
        done
    }

    async fn mkdir(&self, place: &Place) -> Result<Entry> {
        const OP: &str = "make directory";
        let path = join(&place.dir.0, &place.name);
        self.check_name(&place.dir, &place.name)?;
        match self.look(&path, OP).await? {
            Look::Absent => {}
            Look::Is(entry) if entry.kind == Kind::Dir && self.uploads.doubtful(OP, &path) => {
                self.uploads.settled(OP, &path);
                return Ok(entry);
            }
            Look::Is(_) => return Err(Error::new(ErrorKind::Exists, OP).at(path)),
            Look::Other(entry) => return Err(taken_by(&entry, OP).at(path)),
        }
        let done = self.mkdir_now(&path, OP).await;
        self.uploads.settle(OP, &path, &done);
        done
    }

    async fn rmdir(&self, entry: &Entry) -> Result<()> {
        const OP: &str = "remove directory";
        let path = &*entry.addr.0;
        if path.is_empty() {
            return Err(Error::new(ErrorKind::Busy, OP).at("/").said("the root"));
        }
        match self.look(path, OP).await? {
            Look::Is(found) if found.kind == Kind::Dir => {}
            // The same request on a file would delete the file (section 11).
            Look::Is(_) => return Err(Error::new(ErrorKind::NotDir, OP).at(path)),
            _ if self.uploads.doubtful(OP, path) => {
                self.uploads.settled(OP, path);
                return Ok(());
            }
            _ => return Err(Error::new(ErrorKind::NotFound, OP).at(path)),
        }
        if !self.items(path, OP).await?.entries.is_empty() {
            return Err(Error::new(ErrorKind::NotEmpty, OP).at(path));
        }
        let mut ask = self.ask(Method::POST, "delete", path, "?recursive=false", OP)?;
        ask.body = Body::Empty;
        let answer = self.send(&ask).await;
        let done = match answer {
            Ok(answer) if answer.status() == 400 => {
                let error = answer.into_error().await;
                Err(match self.items(path, OP).await {
                    Ok(listing) if listing.items > 0 => {
                        Error::new(ErrorKind::NotEmpty, OP).at(path)
                    }
                    _ => error,
                })
            }
            answer => self.gone(answer, path, OP).await,
        };
        self.uploads.settle(OP, path, &done);
        done
    }

    async fn rename(&self, entry: &Entry, _to: &Place, _over: Option<&Entry>) -> Result<Entry> {
        // Section 12: there is none.
        Err(Error::new(ErrorKind::Unsupported, "rename").at(&*entry.addr.0))
    }

    async fn set_attrs(&self, entry: &Entry, attrs: &Attrs) -> Result<Entry> {
        let path = &*entry.addr.0;
        if self.config.user_metadata && entry.kind != Kind::Dir {
            let only_more = entry.attrs.is_empty();
            self.write_attrs(path, attrs, only_more).await?;
        }
        match self.look(path, "set attributes").await? {
            Look::Is(entry) => Ok(entry),
            _ => Err(Error::new(ErrorKind::NotFound, "set attributes").at(path)),
        }
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// The name is another spelling of an entry's.
fn taken_by(entry: &Entry, op: &'static str) -> Error {
    Error::new(ErrorKind::Exists, op).said(&format!(
        "the server takes this name for \"{}\"",
        entry.name
    ))
}

impl ProGet {
    /// Ends a removal: an answer that was lost is settled by looking.
    async fn gone(&self, answer: Result<Answer>, path: &str, op: &'static str) -> Result<()> {
        let error = match answer {
            Ok(answer) if answer.is_success() || answer.status() == 404 => {
                answer.drain().await;
                return Ok(());
            }
            Ok(answer) => answer.into_error().await,
            Err(error) => error,
        };
        let lost = error.kind.worth_another_try() && error.kind != ErrorKind::Later;
        if lost && matches!(self.look(path, op).await, Ok(Look::Absent)) {
            return Ok(());
        }
        Err(error)
    }

    async fn mkdir_now(&self, path: &str, op: &'static str) -> Result<Entry> {
        let error = self.post_dir(path, op).await.err();
        match (self.look(path, op).await, error) {
            (Ok(Look::Is(entry)), _) if entry.kind == Kind::Dir => Ok(entry),
            (Ok(Look::Is(_)), _) => Err(Error::new(ErrorKind::Exists, op).at(path)),
            (Ok(Look::Other(entry)), _) => Err(taken_by(&entry, op).at(path)),
            (Ok(Look::Absent), Some(error)) if error.kind == ErrorKind::Invalid => {
                Err(self.why_refused(path, error).await)
            }
            (_, Some(error)) => Err(error),
            // It was made: whatever keeps us from looking, the next try finds ours.
            (Err(error), None) => Err(Error::new(ErrorKind::Broken, op).at(path).because(error)),
            (Ok(Look::Absent), None) => Err(Error::new(ErrorKind::Mismatch, op)
                .at(path)
                .said("the server said yes, but has no such directory")),
        }
    }

    async fn post_dir(&self, path: &str, op: &'static str) -> Result<()> {
        let mut ask = self.ask(Method::POST, "dir", path, "", op)?;
        ask.body = Body::Empty;
        let answer = self.send(&ask).await?;
        if !answer.is_success() {
            return Err(answer.into_error().await);
        }
        answer.drain().await;
        Ok(())
    }

    /// A 400 for a name that is free: is a parent a file? Else the server's word stands.
    async fn why_refused(&self, path: &str, error: Error) -> Error {
        let (mut dir, _) = split(path);
        while !dir.is_empty() {
            match self.look(dir, error.op).await {
                Ok(Look::Is(entry)) if entry.kind != Kind::Dir => {
                    return Error::new(ErrorKind::NotDir, error.op)
                        .at(path)
                        .said(&format!("/{dir} is a file"));
                }
                Ok(Look::Absent) => dir = split(dir).0,
                _ => break,
            }
        }
        error
    }

    /// Whether parts are sent one at a time by now.
    fn is_sequential(&self) -> bool {
        self.uploads.sequential.load(Ordering::Relaxed)
    }
}

/// The content type to send: that of the file replaced, if it can stand, else plain bytes.
fn content_type(new: &New) -> &str {
    if new.kind == Kind::Symlink {
        return SYMLINK_TYPE;
    }
    let old = (new.replaces.as_ref())
        .filter(|e| e.kind == Kind::File)
        .and_then(|e| e.content_type.as_deref())
        .unwrap_or("")
        .trim();
    let lower = old.to_ascii_lowercase();
    // The server interprets forms (section 7); "dir" would make the item look like a folder.
    let unfit = !lower.contains('/')
        || lower.starts_with("multipart/")
        || lower.starts_with("application/x-www-form-urlencoded")
        || lower.starts_with(SYMLINK_TYPE);
    if unfit {
        "application/octet-stream"
    } else {
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split_into_base_directory_and_folder() {
        let at = |a: &str| Config::at(a, Auth::Anonymous);
        let config = at("https://h:81/pre/endpoints/my%20files/a%2Bb/c/").unwrap();
        assert_eq!(config.base.as_str(), "https://h:81/pre");
        assert_eq!((&*config.directory, &*config.folder), ("my files", "a+b/c"));
        let store = ProGet::new(config).unwrap();
        let ask = store.ask(Method::GET, "dir", "x y", "?recursive=false", "list");
        assert_eq!(
            ask.unwrap().url.as_str(),
            "https://h:81/pre/endpoints/my%20files/dir/x%20y?recursive=false"
        );
        for bad in [
            "https://h/endpoints/",
            "https://h/files",
            "ftp://h/endpoints/a",
            "https://u:p@h/endpoints/a",
            "https://h/endpoints/a/b%2Fc",
        ] {
            assert_eq!(at(bad).unwrap_err().kind, ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn a_replaced_file_keeps_its_type_unless_the_server_would_misread_it() {
        let mut new = New {
            place: Place {
                dir: "".into(),
                name: "a".into(),
            },
            kind: Kind::File,
            size: 0,
            digests: Digests::default(),
            attrs: Attrs::default(),
            replaces: None,
            exclusive: false,
        };
        assert_eq!(content_type(&new), "application/octet-stream");
        for (old, want) in [
            ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
            (
                "multipart/form-data; boundary=x",
                "application/octet-stream",
            ),
            ("dir", "application/octet-stream"),
            ("inode/symlink", "application/octet-stream"),
        ] {
            let mut entry = root_entry("a");
            entry.kind = Kind::File;
            entry.content_type = Some(old.into());
            new.replaces = Some(entry);
            assert_eq!(content_type(&new), want);
        }
        new.kind = Kind::Symlink;
        assert_eq!(content_type(&new), "inode/symlink");
    }
}
