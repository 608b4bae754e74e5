//! The configuration file: settings for all mounts at its top, a table `[remote.NAME]` for each name.

use super::credential::{self, Credential, Place};
use super::{known_keys, nearest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The configuration file, keys checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What stands at its top: for every mount.
    pub top: Section,
    /// The tables `[remote.NAME]`.
    pub remotes: BTreeMap<String, Section>,
}

/// Keys and values that belong together.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Settings and credentials as written.
    pub pairs: BTreeMap<String, String>,
    /// `source`, in a remote.
    pub source: Option<String>,
    /// What is wrong with it, in a sentence that names the table: an error for who asks for it, no more than a
    /// warning for others.
    pub wrong: Option<String>,
}

/// Values may be secret.
impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.pairs.keys()).finish()
    }
}

impl File {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// A sentence that names the file, and the key if it is about one.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|why| format!("cannot read {}: {why}", path.display()))?;
        let file = File::parse(path, &text)?;
        if file.holds_a_secret() {
            credential::private(path)?;
        }
        Ok(file)
    }

    /// Checks the text of a configuration file. Pure.
    ///
    /// # Errors
    /// A sentence that names the file, and the key if it is about one.
    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let shown = path.display();
        let table: Table = text
            .parse()
            .map_err(|why: toml::de::Error| format!("{shown}: {}", first_line(&why, text)))?;
        let mut file = File {
            path: path.to_owned(),
            ..File::default()
        };
        for (key, value) in table {
            match (key.as_str(), value) {
                ("remote", Value::Table(remotes)) => {
                    for (name, value) in remotes {
                        let section = Section::remote(&name, value);
                        file.remotes.insert(name, section);
                    }
                }
                (key, value) => file
                    .top
                    .take(key, value, false)
                    .map_err(|why| format!("{shown}: {why}"))?,
            }
        }
        Ok(file)
    }

    fn holds_a_secret(&self) -> bool {
        let secret = |section: &Section| {
            credential::NAMES
                .iter()
                .any(|(name, secret)| *secret && section.pairs.contains_key(*name))
        };
        secret(&self.top) || self.remotes.values().any(secret)
    }
}

impl Section {
    /// The table `[remote.NAME]`. What can be understood of it is taken whatever is wrong.
    fn remote(name: &str, value: Value) -> Self {
        let table = format!("[remote.{name}]");
        let mut section = Section::default();
        let Value::Table(entries) = value else {
            section.wrong = Some(format!("remote.{name} is not a table {table}"));
            return section;
        };
        for (key, value) in entries {
            if let Err(why) = section.take(&key, value, true) {
                section.wrong.get_or_insert(format!("{table} {why}"));
            }
        }
        if section.source.is_none() {
            let why = format!("{table} has no source = \"...\"");
            section.wrong.get_or_insert(why);
        }
        section
    }

    fn take(&mut self, key: &str, value: Value, remote: bool) -> Result<(), String> {
        let value = match value {
            Value::String(text) => text,
            Value::Integer(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            Value::Boolean(b) => b.to_string(),
            Value::Table(_) => {
                return Err(format!(
                    "[{key}] is not known: settings for all mounts stand at the top, those of one in [remote.NAME]"
                ));
            }
            _ => {
                return Err(format!(
                    "{key} has a value that is neither text, number nor true or false"
                ));
            }
        };
        if remote && key == "source" {
            self.source = Some(value);
            return Ok(());
        }
        let mut known = known_keys();
        known.retain(|k| k != "config");
        known.extend(credential_keys());
        if remote {
            known.push("source".to_owned());
        }
        if !known.iter().any(|k| k == key) {
            return Err(format!(
                "key \"{key}\" is not known{}",
                nearest(key, &known)
            ));
        }
        self.pairs.insert(key.to_owned(), value);
        Ok(())
    }

    /// The credential `name` of this section, if it says where that is. `place` names the section.
    ///
    /// # Errors
    /// A sentence if it says so more than once.
    pub fn credential(&self, name: &str, place: &str) -> Result<Option<Credential>, String> {
        let mut found = None;
        for suffix in ["", "_file", "_command"] {
            let key = format!("{name}{suffix}");
            let Some(value) = self.pairs.get(&key) else {
                continue;
            };
            if let Some(Credential { from, .. }) = found {
                return Err(format!("{from} and {key} exclude each other: keep one"));
            }
            let place_of = match suffix {
                "" => Place::Text(value.clone()),
                "_file" => Place::File(super::home(value)),
                _ => Place::Command(value.clone()),
            };
            found = Some(Credential {
                place: place_of,
                from: format!("{key} in {place}"),
            });
        }
        Ok(found)
    }
}

fn credential_keys() -> impl Iterator<Item = String> {
    credential::NAMES.iter().flat_map(|(name, _)| {
        [String::new(), "_file".into(), "_command".into()].map(|s| format!("{name}{s}"))
    })
}

/// What is wrong and in which line, without the line itself: it may hold a secret.
fn first_line(why: &toml::de::Error, text: &str) -> String {
    let line = why.span().map_or(1, |span| {
        text[..span.start.min(text.len())].matches('\n').count() + 1
    });
    format!("line {line}: {}", why.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("/c.toml"), text)
    }

    #[test]
    fn the_top_is_for_every_mount_and_a_table_for_one() {
        let file = parse(
            "memory = \"1G\"\nread_only = true\n[remote.files]\nsource = \"demo:/x\"\nuploads = 2\n",
        )
        .unwrap();
        assert_eq!(file.top.pairs["memory"], "1G");
        assert_eq!(file.top.pairs["read_only"], "true");
        assert_eq!(file.remotes["files"].pairs["uploads"], "2");
        assert_eq!(file.remotes["files"].source.as_deref(), Some("demo:/x"));
    }

    #[test]
    fn an_unknown_key_names_file_table_and_the_nearest_known_key() {
        let wrong = |text| parse(text).unwrap().remotes["a"].wrong.clone();
        assert_eq!(
            wrong("[remote.a]\nsource = \"demo:/x\"\nupload = 3").unwrap(),
            "[remote.a] key \"upload\" is not known; did you mean \"uploads\"?"
        );
        assert_eq!(
            wrong("remote.a = 3").unwrap(),
            "remote.a is not a table [remote.a]"
        );
        let why = parse("api_key_fil = \"x\"").unwrap_err();
        assert!(why.contains("did you mean \"api_key_file\""), "{why}");
    }

    #[test]
    fn what_is_wrong_in_a_table_is_wrong_in_that_table_alone() {
        let text = "[remote.a]\nuploads = 1\n[remote.b]\nsource = \"demo:/x\"";
        let remotes = parse(text).unwrap().remotes;
        let wrong = |name| remotes[name].wrong.as_deref();
        assert_eq!(wrong("a"), Some("[remote.a] has no source = \"...\""));
        assert_eq!(wrong("b"), None);
    }

    #[test]
    fn a_syntax_error_names_its_line_and_does_not_show_it() {
        let why = parse("memory = \"1G\"\napi_key = hunter2").unwrap_err();
        assert!(why.starts_with("/c.toml: line 2"), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn a_credential_stands_in_one_place_only() {
        let file = parse("api_key_file = \"/k\"\napi_key_command = \"c\"").unwrap();
        assert!(
            file.top
                .credential("api_key", "/c.toml")
                .unwrap_err()
                .contains("keep one")
        );
        let file = parse("api_key_file = \"/k\"").unwrap();
        let credential = file.top.credential("api_key", "/c.toml").unwrap().unwrap();
        assert_eq!(credential.place, Place::File("/k".into()));
        assert_eq!(credential.from, "api_key_file in /c.toml");
    }

    #[test]
    fn a_key_in_a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "api_key = \"k\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(File::read(&path).unwrap_err().contains("chmod 600"));
        // Also where nobody asks for it, and something else is wrong there.
        std::fs::write(&path, "[remote.a]\nupload = 1\napi_key = \"k\"\n").unwrap();
        assert!(File::read(&path).unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(File::read(&path).is_ok());
    }
}
