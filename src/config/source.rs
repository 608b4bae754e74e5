//! What is mounted: the word SOURCE. Pure.

use percent_encoding::percent_decode_str;
use std::net::IpAddr;
use std::path::PathBuf;
use url::{Host, Url};

/// What stands for a source on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A source by its address.
    Source(Source),
    /// The name of a table `[remote.NAME]`.
    Name(String),
}

/// A source by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A ProGet asset directory.
    Proget(Proget),
    /// One entity of a Siemens IoT File Service.
    Iotfile(Iotfile),
    /// A folder of a Box account.
    Box(BoxFolder),
    /// A folder of this machine behind a server inside the mount process.
    Demo(PathBuf),
}

/// `proget+https://HOST[/PREFIX]/endpoints/DIRECTORY[/FOLDER]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proget {
    /// The server with its prefix, without a slash at the end: `https://host:8624/prefix`.
    pub server: String,
    /// The asset directory's name, decoded.
    pub directory: String,
    /// The folder below it, decoded, `a/b`; empty for all of it.
    pub folder: String,
    /// Bytes travel in the clear and not only inside this machine.
    pub in_the_clear: bool,
}

/// `iotfile+https://GATEWAY[/PREFIX]/ENTITY[/FOLDER]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iotfile {
    /// The API gateway with its prefix, without a slash at the end.
    pub gateway: String,
    /// The entity (asset): 32 of `a-f0-9`.
    pub entity: String,
    /// The folder below it, decoded, `a/b`; empty for all of it.
    pub folder: String,
    /// Bytes travel in the clear and not only inside this machine.
    pub in_the_clear: bool,
}

/// `box:[FOLDER/PATH]` or `box:id/NUMBER[/FOLDER/PATH]`; nothing in it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxFolder {
    /// The folder where the path begins; `0` is the root of the account.
    pub id: String,
    /// The folder below it, `a/b`; empty for all of it.
    pub folder: String,
}

/// What a person may write, for the sentences.
const FORMS: &str = "proget+https://HOST/endpoints/DIRECTORY[/FOLDER], \
                     iotfile+https://GATEWAY/ENTITY[/FOLDER], box:[FOLDER], demo:DIR, or a NAME from \
                     the configuration file";

impl Word {
    /// Reads the word SOURCE.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(dir) = text.strip_prefix("demo:") {
            if dir.is_empty() {
                return Err("demo: needs a folder: demo:DIR".to_owned());
            }
            return Ok(Word::Source(Source::Demo(PathBuf::from(dir))));
        }
        if let Some(path) = text.strip_prefix("box:") {
            return BoxFolder::parse(path).map(|b| Word::Source(Source::Box(b)));
        }
        let scheme = text.split(':').next().unwrap_or_default();
        match scheme {
            "proget+https" | "proget+http" => {
                Proget::parse(text).map(|p| Word::Source(Source::Proget(p)))
            }
            "iotfile+https" | "iotfile+http" => {
                Iotfile::parse(text).map(|i| Word::Source(Source::Iotfile(i)))
            }
            _ if scheme == text && is_name(text) => Ok(Word::Name(text.to_owned())),
            "solar+https" | "solar+http" => Err(format!(
                "{scheme}: sources are not yet built into this version; it has {FORMS}"
            )),
            "http" | "https" => Err(format!(
                "\"{text}\" does not say which service it is: did you mean proget+{text}?"
            )),
            _ => Err(format!("\"{text}\" is not a source: {FORMS}")),
        }
    }
}

/// The address in a source, checked, and the decoded segments of its path.
fn address(text: &str, scheme: &str) -> Result<(Url, Vec<String>), String> {
    let rest = text.strip_prefix(scheme).unwrap_or(text);
    let url = Url::parse(rest)
        .map_err(|why| format!("\"{}\" is not an address: {why}", unsecret(text)))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "credentials do not belong into the source, where everybody sees them: write {}",
            unsecret(text)
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "\"{text}\" has a ? or #, which a source has not (in a folder's name write %3F or %23)"
        ));
    }
    if url.host().is_none() {
        return Err(format!("\"{text}\" has no host: {FORMS}"));
    }
    let mut segments = Vec::new();
    for raw in url.path().split('/').filter(|s| !s.is_empty()) {
        segments.push(
            percent_decode_str(raw)
                .decode_utf8()
                .map_err(|_| format!("\"{raw}\" in \"{text}\" is not UTF-8"))?
                .into_owned(),
        );
    }
    Ok((url, segments))
}

/// The address of what stands before segment `at`, without a slash at its end.
fn before(url: &Url, at: usize) -> String {
    let mut server = url.clone();
    let path = url.path().split('/').filter(|s| !s.is_empty());
    server.set_path(&path.take(at).collect::<Vec<_>>().join("/"));
    server.as_str().trim_end_matches('/').to_owned()
}

/// `folder` with `subdir` below it.
fn below(folder: &mut String, subdir: &str) -> Result<(), String> {
    for name in subdir.split('/').filter(|s| !s.is_empty()) {
        check_segment(name)?;
        if !folder.is_empty() {
            folder.push('/');
        }
        folder.push_str(name);
    }
    Ok(())
}

/// Whether bytes to this address can be read on their way.
fn in_the_clear(url: &Url) -> bool {
    url.scheme() == "http" && !url.host().is_some_and(|host| is_loopback(&host))
}

/// As [`in_the_clear`], of a text; false if it is no address.
pub(super) fn goes_in_the_clear(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| in_the_clear(&url))
}

impl Iotfile {
    fn parse(text: &str) -> Result<Self, String> {
        let (url, segments) = address(text, "iotfile+")?;
        let is_id = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let is_entity = |s: &String| s.len() == 32 && s.chars().all(is_id);
        let at = segments.iter().position(is_entity).ok_or_else(|| {
            format!(
                "\"{text}\" names no entity, which has 32 characters a-f and 0-9, without capitals \
                 and dashes: iotfile+https://GATEWAY/ENTITY[/FOLDER]"
            )
        })?;
        for name in &segments[at + 1..] {
            check_segment(name)?;
        }
        Ok(Iotfile {
            gateway: before(&url, at),
            entity: segments[at].clone(),
            folder: segments[at + 1..].join("/"),
            in_the_clear: in_the_clear(&url),
        })
    }

    /// This source with `subdir` below its folder.
    ///
    /// # Errors
    /// A sentence if `subdir` cannot be a folder's path.
    pub fn below(mut self, subdir: &str) -> Result<Self, String> {
        below(&mut self.folder, subdir)?;
        Ok(self)
    }
}

impl BoxFolder {
    fn parse(path: &str) -> Result<Self, String> {
        if path.starts_with("//") {
            return Err(format!(
                "box:{path} is no folder of an account: write box:[FOLDER], and the address as api_url"
            ));
        }
        let by_id = path
            .strip_prefix("id/")
            .map(|rest| match rest.split_once('/') {
                Some((id, folder)) => (id, folder),
                None => (rest, ""),
            });
        let is_id = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let (id, path) = by_id.filter(|(id, _)| is_id(id)).unwrap_or(("0", path));
        let root = BoxFolder {
            id: id.to_owned(),
            folder: String::new(),
        };
        root.below(path)
    }

    /// This source with `subdir` below its folder.
    ///
    /// # Errors
    /// A sentence if `subdir` cannot be a folder's path.
    pub fn below(mut self, subdir: &str) -> Result<Self, String> {
        below(&mut self.folder, subdir)?;
        Ok(self)
    }
}

impl Proget {
    fn parse(text: &str) -> Result<Self, String> {
        let (url, segments) = address(text, "proget+")?;
        let at = segments
            .iter()
            .position(|s| s == "endpoints")
            .ok_or_else(|| format!("\"{text}\" has no /endpoints/DIRECTORY: {FORMS}"))?;
        let Some(directory) = segments.get(at + 1).cloned() else {
            return Err(format!(
                "\"{text}\" does not name an asset directory after /endpoints/"
            ));
        };
        for name in &segments[at + 1..] {
            check_segment(name)?;
        }
        Ok(Proget {
            server: before(&url, at),
            directory,
            folder: segments[at + 2..].join("/"),
            in_the_clear: in_the_clear(&url),
        })
    }

    /// This source with `subdir` below its folder.
    ///
    /// # Errors
    /// A sentence if `subdir` cannot be a folder's path.
    pub fn below(mut self, subdir: &str) -> Result<Self, String> {
        below(&mut self.folder, subdir)?;
        Ok(self)
    }
}

/// Whether `text` can name a remote.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

fn check_segment(name: &str) -> Result<(), String> {
    if matches!(name, "." | "..") || name.contains(['/', '\\', '\0']) {
        return Err(format!("\"{name}\" cannot be a folder's name"));
    }
    Ok(())
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => IpAddr::from(*ip).is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// The address without what stands before an @.
fn unsecret(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proget(text: &str) -> Proget {
        match Word::parse(text) {
            Ok(Word::Source(Source::Proget(p))) => p,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_proget_source_is_server_directory_and_folder() {
        let p = proget("proget+https://h:8624/pre/endpoints/files/My%20Folder/b/");
        assert_eq!(p.server, "https://h:8624/pre");
        assert_eq!(p.directory, "files");
        assert_eq!(p.folder, "My Folder/b");
        assert!(!p.in_the_clear);
        assert_eq!(
            proget("proget+https://h/endpoints/files").server,
            "https://h"
        );
    }

    #[test]
    fn an_iotfile_source_is_gateway_entity_and_folder() {
        let entity = "0123456789abcdef0123456789abcdef";
        let parse = |text: &str| match Word::parse(text) {
            Ok(Word::Source(Source::Iotfile(i))) => i,
            other => panic!("{text}: {other:?}"),
        };
        let i = parse(&format!("iotfile+https://h:1/pre/{entity}/a%20b/c/"));
        assert_eq!((&*i.gateway, &*i.entity), ("https://h:1/pre", entity));
        assert_eq!((&*i.folder, i.in_the_clear), ("a b/c", false));
        let i = parse(&format!("iotfile+http://h/{entity}"));
        assert_eq!((&*i.gateway, &*i.folder), ("http://h", ""));
        assert!(i.in_the_clear);
        assert_eq!(i.below("x/y").unwrap().folder, "x/y");
    }

    #[test]
    fn a_box_source_is_a_path_or_an_id_and_a_path() {
        let parse = |text: &str| match Word::parse(text) {
            Ok(Word::Source(Source::Box(b))) => (b.id.clone(), b.below("x").unwrap().folder),
            other => panic!("{text}: {other:?}"),
        };
        for (text, id, folder) in [
            ("box:", "0", "x"),
            ("box:Some Folder/50%/", "0", "Some Folder/50%/x"),
            ("box:id/12345", "12345", "x"),
            ("box:id/12345/a/b", "12345", "a/b/x"),
            ("box:id/me", "0", "id/me/x"),
            ("box:id", "0", "id/x"),
        ] {
            assert_eq!(parse(text), (id.to_owned(), folder.to_owned()), "{text}");
        }
    }

    #[test]
    fn subdir_goes_below_the_folder() {
        let p = proget("proget+https://h/endpoints/f/a")
            .below("/b//c/")
            .unwrap();
        assert_eq!(p.folder, "a/b/c");
        assert!(
            proget("proget+https://h/endpoints/f")
                .below("../x")
                .is_err()
        );
    }

    #[test]
    fn http_is_in_the_clear_unless_loopback() {
        for (text, clear) in [
            ("proget+http://h/endpoints/f", true),
            ("proget+http://10.0.0.1/endpoints/f", true),
            ("proget+http://127.0.0.1:80/endpoints/f", false),
            ("proget+http://[::1]/endpoints/f", false),
            ("proget+http://localhost:1/endpoints/f", false),
            ("proget+https://h/endpoints/f", false),
        ] {
            assert_eq!(proget(text).in_the_clear, clear, "{text}");
        }
    }

    #[test]
    fn credentials_in_a_source_are_refused_and_not_repeated() {
        let why = Word::parse("proget+https://api:hunter2@h/endpoints/f").unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
        assert!(why.contains("proget+https://h/endpoints/f"), "{why}");
    }

    #[test]
    fn a_name_is_a_remote_and_a_folder_is_a_demo() {
        assert_eq!(Word::parse("files"), Ok(Word::Name("files".to_owned())));
        assert_eq!(
            Word::parse("demo:/tmp/x"),
            Ok(Word::Source(Source::Demo("/tmp/x".into())))
        );
    }

    #[test]
    fn what_is_not_a_source_is_answered_with_what_would_be() {
        for (text, words) in [
            (
                "https://h/endpoints/f",
                "did you mean proget+https://h/endpoints/f",
            ),
            ("box://h/a", "no folder of an account"),
            ("box:a/../b", "cannot be a folder's name"),
            ("solar+https://h/api", "not yet built into this version"),
            ("iotfile+https://h/e", "names no entity"),
            (
                "iotfile+https://h/0123456789ABCDEF0123456789ABCDEF",
                "without capitals",
            ),
            ("proget+https://h/files", "no /endpoints/DIRECTORY"),
            (
                "proget+https://h/endpoints/",
                "does not name an asset directory",
            ),
            ("proget+https://h/endpoints/f?key=1", "has a ? or #"),
            ("/tmp/x", "is not a source"),
            ("demo:", "needs a folder"),
            ("", "is not a source"),
        ] {
            let why = Word::parse(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }
}
