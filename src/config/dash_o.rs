//! The words after `-o`: settings, mount(8)'s own, and those of fstab. Pure.

/// What the words of `-o` mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DashO {
    /// `key=value`, in order; a bare key has the value "true".
    pub pairs: Vec<(String, String)>,
    /// Words that go to the kernel, in order: nosuid, noexec, ...
    pub words: Vec<String>,
}

/// mount(8)'s words that the kernel acts on.
const KERNEL: [&str; 11] = [
    "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "sync", "async",
    "dirsync",
];

/// Words that are for fstab's readers, or mean nothing for a network filesystem in user space.
const IGNORED: [&str; 24] = [
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "defaults",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
];

impl DashO {
    /// Reads what stood after each `-o`, in order. A comma in a value is written `\,`.
    ///
    /// # Errors
    /// A sentence for an empty key, and for `remount`.
    pub fn parse<S: AsRef<str>>(given: &[S]) -> Result<Self, String> {
        let mut out = DashO::default();
        for word in given.iter().flat_map(|text| pieces(text.as_ref())) {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word.as_str(), None),
            };
            match (key, value) {
                ("", None) => {}
                ("", Some(_)) => return Err(format!("-o \"{word}\" has no key")),
                ("remount", _) => {
                    return Err(
                        "-o remount is not supported: unmount it (assetfs umount MOUNTPOINT) and mount it \
                         again with the new settings"
                            .to_owned(),
                    );
                }
                ("ro", None) => out.pair("read_only", "true"),
                ("rw", None) => out.pair("read_only", "false"),
                (key, None) if KERNEL.contains(&key) => out.words.push(key.to_owned()),
                (key, None) if IGNORED.contains(&key) => {}
                ("comment", Some(_)) => {}
                (key, _) if key.starts_with("x-") || key.starts_with("X-") => {}
                (key, value) => out.pair(&key.replace('-', "_"), value.unwrap_or("true")),
            }
        }
        Ok(out)
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.pairs.push((key.to_owned(), value.to_owned()));
    }
}

fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&',') => {
                chars.next();
                if let Some(last) = pieces.last_mut() {
                    last.push(',');
                }
            }
            ',' => pieces.push(String::new()),
            c => {
                if let Some(last) = pieces.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(texts: &[&str]) -> Vec<(String, String)> {
        DashO::parse(texts).unwrap().pairs
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn o_may_be_repeated_and_keys_may_be_written_with_either_dash() {
        assert_eq!(
            pairs(&["uid=5,part-size=8M", "allow_other"]),
            [
                pair("uid", "5"),
                pair("part_size", "8M"),
                pair("allow_other", "true")
            ]
        );
    }

    #[test]
    fn the_words_of_fstab_are_accepted_and_ignored() {
        let o = DashO::parse(&[
            "defaults,_netdev,nofail,noauto,auto,user,users,owner,x-systemd.automount,x-y=1,comment=a",
        ])
        .unwrap();
        assert_eq!(o, DashO::default());
    }

    #[test]
    fn the_kernels_words_go_to_the_kernel() {
        let o = DashO::parse(&["nosuid,nodev,noexec,noatime,async"]).unwrap();
        assert_eq!(o.words, ["nosuid", "nodev", "noexec", "noatime", "async"]);
        assert_eq!(o.pairs, []);
    }

    #[test]
    fn ro_and_rw_are_read_only_and_the_last_one_wins() {
        assert_eq!(
            pairs(&["ro,rw"]),
            [pair("read_only", "true"), pair("read_only", "false")]
        );
    }

    #[test]
    fn an_escaped_comma_belongs_to_the_value() {
        assert_eq!(
            pairs(&["subdir=a\\,b,uid=1"]),
            [pair("subdir", "a,b"), pair("uid", "1")]
        );
    }

    #[test]
    fn a_remount_is_refused_with_what_to_do_instead() {
        let why = DashO::parse(&["remount,ro"]).unwrap_err();
        assert!(why.contains("not supported: unmount it"), "{why}");
    }

    #[test]
    fn a_value_without_key_is_an_error() {
        assert!(DashO::parse(&["=1"]).is_err());
        assert!(DashO::parse(&[",,"]).is_ok());
    }
}
