//! README.md is held against the code: its tables are rendered here from the structs that the program
//! uses, its transcript is run, its configuration file is read, and every test that it names exists.
//!
//! `README_UPDATE=1 cargo test --test readme` writes what is rendered into README.md.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::config::promises::TEMP_NAMES;
use assetfs::config::{Env, File, Given, Settings, resolve};
use assetfs::error::Kind;
use assetfs::http::{Credential, Secret};
use assetfs::serve::{ENTITY, EXAMPLE, FORMAT};
use assetfs::store::boxcom::{self, BoxCom};
use assetfs::store::iotfile::{self, IotFile};
use assetfs::store::proget::{Auth, Config, ProGet};
use assetfs::store::{Algo, At, Caps, Keeps, Store};
use clap::Args;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// One test at a time writes the file.
static WRITING: Mutex<()> = Mutex::new(());

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    std::fs::read_to_string(top().join("README.md")).unwrap()
}

/// Where the text between `<!-- name -->` and `<!-- /name -->` stands.
fn block(text: &str, name: &str) -> std::ops::Range<usize> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let from = text.find(&begin).expect(&begin) + begin.len();
    from..from + text[from..].find(&end).expect(&end)
}

/// The block is `want`, or becomes it if asked for.
fn holds(name: &str, want: &str) {
    let _alone = WRITING.lock();
    let mut text = readme();
    let at = block(&text, name);
    if std::env::var_os("README_UPDATE").is_some() && text[at.clone()] != *want {
        text.replace_range(at, want);
        std::fs::write(top().join("README.md"), text).unwrap();
        return;
    }
    assert_eq!(
        &text[at], want,
        "README.md, {name}: README_UPDATE=1 cargo test --test readme mends it"
    );
}

/// The lines of a block's code.
fn code(name: &str) -> String {
    let text = readme();
    let lines = text[block(&text, name)].lines();
    let inside: Vec<&str> = lines.filter(|line| !line.starts_with("```")).collect();
    inside.join("\n") + "\n"
}

fn errno(kind: Kind) -> &'static str {
    match kind.errno() {
        libc::EXDEV => "EXDEV",
        libc::EPERM => "EPERM",
        libc::EEXIST => "EEXIST",
        libc::EFBIG => "EFBIG",
        other => panic!("give errno {other} its name"),
    }
}

/// What goes in one request: a setting, or what the service says.
fn one_shot(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("up to {} MiB (`part_size`)", bytes >> 20),
        _ => format!("up to {bytes} bytes"),
    }
}

fn algo(algo: Algo) -> &'static str {
    match algo {
        Algo::Md5 => "MD5",
        Algo::Sha1 => "SHA-1",
        Algo::Sha256 => "SHA-256",
    }
}

fn either(is: bool, yes: &str, no: &str) -> String {
    if is { yes } else { no }.to_owned()
}

/// What each capability means to a user, in the order of the struct.
fn meanings(caps: &Caps) -> Vec<(&'static str, String)> {
    // Every field by its name: a new one does not compile before it has its row.
    let Caps {
        name: _,
        one_shot_max,
        size_at,
        digest_at,
        digests,
        parallel_parts,
        replaces_parts,
        tail_in_finish,
        parts_max,
        resume,
        abort,
        idle,
        rename_file,
        rename_dir,
        rename_replaces,
        empty_dirs,
        dirs,
        exclusive_create,
        conditional_replace,
        case_folds,
        space,
        size_max,
        keeps,
    } = caps;
    let Keeps {
        mtime,
        mode,
        xattrs,
        symlinks,
        on_dirs,
    } = keeps;
    let refused = |kind| format!("refused ({})", errno(kind));
    let kept = |is: bool| either(is, "native", "emulated: while mounted");
    let told = |at: &At| match at {
        At::Start => "with the first request, so that sending begins at close".to_owned(),
        At::End => "with the commit".to_owned(),
    };
    let compared = match digests.first() {
        None => "none: only the size is compared".to_owned(),
        Some(first) => {
            let all: Vec<_> = digests.iter().map(|one| algo(*one)).collect();
            format!("{} (reported: {})", algo(*first), all.join(", "))
        }
    };
    vec![
        ("content in one request", one_shot(*one_shot_max)),
        ("the size must be known", told(size_at)),
        (
            "the digest must be known",
            digest_at.as_ref().map_or("never".to_owned(), told),
        ),
        ("digest compared after a commit", compared),
        (
            "larger content",
            format!(
                "in parts, {}",
                either(*parallel_parts, "several at a time", "one after the other")
            ),
        ),
        (
            "a part sent again with other bytes",
            either(
                *replaces_parts,
                "native",
                "emulated: the upload starts over",
            ),
        ),
        (
            "the last part goes with the commit",
            either(*tail_in_finish, "yes", "no"),
        ),
        ("parts of one upload", format!("at most {parts_max}")),
        (
            "going on with an upload after a restart",
            either(
                *resume,
                "native",
                "emulated: from the spool, from the beginning",
            ),
        ),
        (
            "giving an upload up",
            either(*abort, "native", "emulated: left to the server's clean-up"),
        ),
        (
            "longest pause within an upload",
            idle.map_or("none known".to_owned(), |idle| {
                format!("{} s", idle.as_secs())
            }),
        ),
        (
            "rename of a file",
            either(
                *rename_file,
                "native",
                "emulated: upload under the new name, then removal of the old one",
            ),
        ),
        (
            "rename of a directory",
            if *rename_dir {
                "native".to_owned()
            } else {
                format!(
                    "emulated: one by one; refused ({}) above `rename_max`",
                    errno(Kind::CrossDevice)
                )
            },
        ),
        (
            "rename onto an existing file",
            match (*rename_file, *rename_replaces) {
                (_, true) => "native".to_owned(),
                (true, false) => {
                    "emulated: the old one is put aside, then removed; a file that is not sent yet goes \
                     over it as a new version"
                        .to_owned()
                }
                (false, false) => {
                    "emulated: a commit that replaces it, then removal of the old name".to_owned()
                }
            },
        ),
        ("empty directories", kept(*empty_dirs)),
        (
            "directories",
            either(*dirs, "native", "emulated: pieces of the files' names"),
        ),
        (
            "`O_EXCL`",
            if *exclusive_create && *conditional_replace {
                "native".to_owned()
            } else if *exclusive_create {
                "native up to one request; above that emulated: a look before the commit".to_owned()
            } else {
                "emulated: a look before the commit".to_owned()
            },
        ),
        (
            "replace only what was seen",
            either(
                *conditional_replace,
                "native",
                "emulated: a look before the commit",
            ),
        ),
        (
            "a second name that differs only in case",
            if *case_folds {
                refused(Kind::Exists)
            } else {
                "native".to_owned()
            },
        ),
        (
            "quota and use (`df`)",
            either(*space, "native", "emulated: 1 PiB, all free"),
        ),
        (
            "largest file",
            match size_max {
                Some(max) => format!("{max} bytes, then {}", refused(Kind::TooLarge)),
                // An account tells it together with its quota.
                None if *space => {
                    format!("as the account tells, then {}", refused(Kind::TooLarge))
                }
                None => "not told".to_owned(),
            },
        ),
        (
            "mtime",
            match mtime {
                Some(step) if *step == Duration::from_nanos(1) => "native, to 1 ns".to_owned(),
                Some(step) => format!("native, to {step:?}"),
                None => kept(false),
            },
        ),
        ("permission bits", kept(*mode)),
        ("`user.*` attributes", kept(*xattrs)),
        (
            "symbolic links",
            if *symlinks {
                "emulated: a file of the content type `inode/symlink`".to_owned()
            } else {
                refused(Kind::NotPermitted)
            },
        ),
        ("mode, mtime and attributes of directories", kept(*on_dirs)),
        (
            "hard links, device nodes, pipes",
            refused(Kind::NotPermitted),
        ),
    ]
}

fn proget() -> ProGet {
    let key = Auth::Key(Credential::fixed(Secret::new("none")));
    ProGet::new(Config::at("http://localhost/endpoints/files", key).unwrap()).unwrap()
}

fn iotfile() -> IotFile {
    let config = iotfile::Config::at("http://localhost", ENTITY, iotfile::Auth::Anonymous);
    IotFile::new(config.unwrap()).unwrap()
}

fn boxcom() -> BoxCom {
    let root = boxcom::Root {
        id: "0".to_owned(),
        path: String::new(),
    };
    BoxCom::new(boxcom::Config::new(root, boxcom::Auth::Anonymous).unwrap()).unwrap()
}

#[test]
fn the_table_of_capabilities_is_what_the_stores_say() {
    let (store, boxcom, iotfile) = (proget(), boxcom(), iotfile());
    let mut want = String::from(
        "| capability | ProGet | Box | IoT File Service | Solar |\n| --- | --- | --- | --- | --- |\n",
    );
    let all = meanings(store.caps())
        .into_iter()
        .zip(meanings(boxcom.caps()))
        .zip(meanings(iotfile.caps()));
    for (((what, how), (_, boxed)), (_, iot)) in all {
        writeln!(want, "| {what} | {how} | {boxed} | {iot} | not yet |").unwrap();
    }
    assert_eq!(store.caps().name, "ProGet");
    assert_eq!(boxcom.caps().name, "Box");
    assert_eq!(iotfile.caps().name, "IoT File Service");
    holds("capabilities", &want);
}

#[test]
fn the_tables_of_settings_are_those_of_the_help() {
    let command = Settings::augment_args(clap::Command::new("settings"));
    let mut want = String::new();
    let mut under = None;
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        if arg.get_help_heading() != under {
            under = arg.get_help_heading();
            let rows = "| setting | value | default | meaning |\n| --- | --- | --- | --- |";
            writeln!(want, "\n**{}**\n\n{rows}", under.unwrap_or_default()).unwrap();
        }
        let help = arg.get_help().unwrap().to_string();
        let (help, said) = match help.split_once("[default: ") {
            Some((before, rest)) => {
                let (said, after) = rest.split_once(']').unwrap();
                (
                    format!("{}{after}", before.trim_end()),
                    Some(said.to_owned()),
                )
            }
            None => (help, None),
        };
        let values = arg.get_default_values();
        let given: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
        let default = match (given.concat(), said) {
            (value, _) if value.len() > 40 => "see *Temporary names*".to_owned(),
            (value, _) if !value.is_empty() => format!("`{value}`"),
            (_, Some(said)) => said,
            (_, None) => "none".to_owned(),
        };
        let value = arg.get_value_names().unwrap_or_default();
        let value = value
            .first()
            .map_or("", |name| name.as_str())
            .replace('|', " or ");
        let help = help
            .replace('\n', " ")
            .replace('|', "\\|")
            .replace('*', "\\*");
        let key = long.replace('-', "_");
        writeln!(want, "| `{key}` | {value} | {default} | {help} |").unwrap();
    }
    want.push('\n');
    holds("settings", &want);
}

#[test]
fn the_temporary_names_are_exactly_those_of_the_code() {
    holds(
        "temporary names",
        &format!("```\n{}\n```\n", TEMP_NAMES.replace(';', "\n")),
    );
}

#[test]
fn the_configuration_file_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, code("configuration")).unwrap();
    let file = File::read(&path).unwrap();
    assert!(!file.remotes.is_empty());
    for name in file.remotes.keys() {
        let given = Given {
            source: name.clone(),
            flags: vec![("config".to_owned(), path.display().to_string())],
            ..Given::default()
        };
        let vars = [("HOME".to_owned(), "/nonexistent".to_owned())].into();
        resolve(&given, &Env { vars, root: false }).unwrap();
    }
}

#[test]
fn the_faults_are_those_of_the_help() {
    holds("faults", &format!("```json\n{EXAMPLE}```\n"));
    let help = Command::new(env!("CARGO_BIN_EXE_assetfs"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(
        help.contains(FORMAT) && help.contains(EXAMPLE.trim_end()),
        "{help}"
    );
}

#[tokio::test]
async fn the_faults_happen() {
    let mut setup = common::Setup::new();
    setup.tries = 6;
    setup.parallel = false;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), code("faults")).unwrap();
    setup.server.faults = Some(file.path().to_owned());
    let proget = setup.go().await;
    let root = proget.store.probe().await.unwrap().root;
    let content = common::bytes(3 * common::PART as usize, 1);
    let new = common::new(&root, "a.iso", &content);
    let entry = common::store(&proget.store, &new, &content).await.unwrap();
    let got = common::read_all(&proget.store, &entry).await.unwrap();
    assert_eq!(got, content);
    let requests = proget.server.requests();
    let faults: Vec<_> = requests.iter().filter_map(|r| r.fault.as_deref()).collect();
    assert_eq!(faults, ["answer 503", "drop_answer", "truncate after 1000"]);
}

/// A name like `mount_names::a_test` or `vfs/tests::a_test`, if `word` is one.
fn test_name(word: &str) -> Option<(&str, &str)> {
    let (file, name) = word.split_once("::")?;
    let plain = |text: &str, more: &str| {
        let is = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
        !text.is_empty() && text.chars().all(is)
    };
    (plain(file, "_/") && plain(name, "_")).then_some((file, name))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_test(file: &str, name: &str) -> bool {
    let paths: [PathBuf; 2] = ["tests", "src"].map(|dir| top().join(dir).join(file));
    let path = paths
        .iter()
        .flat_map(|path| [path.with_extension("rs"), path.join("mod.rs")]);
    let Some(text) = path.filter_map(|p| std::fs::read_to_string(p).ok()).next() else {
        return false;
    };
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if line.contains(&format!("fn {name}(")) {
            return marked;
        } else if line.contains("fn ") {
            // In proptest's macro the mark stands before each function as well.
            marked = false;
        }
    }
    false
}

#[test]
fn every_test_that_is_named_exists() {
    let text = readme();
    // Code blocks have backticks of their own.
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    let named: Vec<_> = prose
        .iter()
        .flat_map(|text| words(text))
        .filter_map(test_name)
        .collect();
    assert!(named.len() > 40, "{} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|(f, n)| !is_test(f, n)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(!is_test("readme", "no_such_test"));
    assert!(
        !is_test("readme", "is_test"),
        "a function that is not a test"
    );
}

#[test]
fn every_line_of_the_semantics_names_its_test() {
    let text = readme();
    let rows = text[block(&text, "semantics")].lines();
    let rows: Vec<_> = rows.filter(|line| line.starts_with("| ")).collect();
    assert!(rows.len() > 20);
    for row in rows {
        let head = row.ends_with(" | test |") || row.starts_with("| --- ");
        assert!(
            head || words(row).any(|word| test_name(word).is_some()),
            "{row}"
        );
    }
}

#[test]
fn the_commands_are_those_of_the_program() {
    let help = Command::new(env!("CARGO_BIN_EXE_assetfs"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let (list, _) = rest.split_once("\n\n").unwrap();
    let has: BTreeSet<_> = list
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|c| *c != "help")
        .collect();
    let text = readme();
    let rows = text[block(&text, "commands")].lines();
    let told: BTreeSet<_> = rows
        .filter_map(|line| line.strip_prefix("| `assetfs "))
        .filter_map(|rest| rest.split([' ', '`']).next())
        .collect();
    assert_eq!(told, has);
}

/// Ends what a transcript that broke has left mounted.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = Command::new("fusermount3")
            .args(["-u", "-z", "-q", "--"])
            .arg(&self.0)
            .stderr(Stdio::null())
            .status();
        // Most of the time there is nothing to end.
        drop(done);
    }
}

#[test]
fn the_transcript_is_what_happens() {
    if !common::mount::has_fuse() {
        return;
    }
    let want = code("transcript");
    let config = tempfile::NamedTempFile::new().unwrap();
    let config = config.path();
    let script: Vec<_> = want.lines().filter_map(|l| l.strip_prefix("$ ")).collect();
    assert!(script.len() > 6);
    let dir = tempfile::tempdir().unwrap();
    let _ended = Unmount(dir.path().join("mnt"));
    let program = Path::new(env!("CARGO_BIN_EXE_assetfs")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // Each line is shown before its output, as a person sees it.
    let shown = script.iter().fold(String::from("set -e\n"), |all, line| {
        all + &format!("echo '$ {}'\n{line}\n", line.replace('\'', "'\\''"))
    });
    let out = Command::new("bash")
        .arg("-c")
        .arg(format!("exec 2>&1\n{shown}"))
        .current_dir(dir.path())
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("ASSETFS_STATE_DIR", dir.path().join("state"))
        .env("ASSETFS_CONFIG", config)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), want);
    assert!(out.status.success());
}
