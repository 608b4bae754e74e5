//! The commands. Each has its file; this one reads the command line and hands over.
//!
//! A command ends with an exit status, or with one sentence for stderr.

mod background;
mod control;
mod logging;
mod login;
mod mount;
mod mountpoint;
mod progress;
mod serve;
mod signals;
mod status;
mod store;
mod umount;
mod unsent;
mod wait;

use crate::config::{self, Env, Given, Settings, units};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How a command ends: its exit status, or a sentence that says what to do.
type Ended = Result<u8, String>;

/// The exit status when not everything was sent, and the rest is in the spool.
const KEPT: u8 = 3;

/// What mount(8) takes for "mount failure" from its helpers.
const HELPER_FAILED: u8 = 32;

const AFTER_HELP: &str = "\
Every --foo-bar V of mount is also -o foo_bar=V, a key of the configuration file, and the variable
ASSETFS_FOO_BAR; the order is flag, -o, variable, file, default.

Credentials never stand on the command line. They come from ASSETFS_API_KEY (or ASSETFS_USERNAME and
ASSETFS_PASSWORD), from systemd's $CREDENTIALS_DIRECTORY/api_key, or from the configuration file:
api_key_file = \"PATH\", api_key_command = \"COMMAND\", or api_key = \"...\" (chmod 600).";

/// Mounts remote asset stores as directories.
#[derive(Debug, Parser)]
#[command(name = "assetfs", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mount SOURCE on MOUNTPOINT; returns when the mount answers
    #[command(after_help = AFTER_HELP)]
    Mount(Box<MountArgs>),
    /// Send what is left, then unmount (exit status 3: not everything was sent, the rest is in the spool)
    Umount(umount::UmountArgs),
    /// What is dirty, on its way, unsent, cached; of all mounts of this user without MOUNTPOINT
    Status(status::StatusArgs),
    /// Wait until these files are committed (exit status 1: one is not sent by itself; 124: not in time)
    Wait(wait::WaitArgs),
    /// What a crash or an error left in the spool: list it, send it again, copy it out, discard it
    Unsent(unsent::UnsentArgs),
    /// Speak a store's API over a folder, to try everything without an account
    Serve(serve::ServeArgs),
    /// Log in to Box in a browser of this machine; later mounts use what comes of it
    Login(login::LoginArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Args, Debug)]
struct MountArgs {
    /// proget+https://HOST/endpoints/DIRECTORY[/FOLDER], iotfile+https://GATEWAY/ENTITY[/FOLDER], box:[FOLDER],
    /// demo:DIR, or NAME for [remote.NAME] of the configuration file
    source: String,
    /// An empty directory
    #[arg(value_hint = ValueHint::DirPath)]
    mountpoint: PathBuf,
    /// Settings as key=value, and the words of mount(8); may be repeated
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    dash_o: Vec<String>,
    /// Stay in the foreground, log to stderr, speak to systemd (Type=notify)
    #[arg(short = 'f')]
    foreground: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Called as mount(8)'s helper: mount -t assetfs SOURCE MOUNTPOINT.
#[derive(Debug, Parser)]
#[command(name = "mount.assetfs", version)]
struct HelperArgs {
    /// As for assetfs mount
    source: String,
    /// An empty directory
    mountpoint: PathBuf,
    /// Settings as key=value, and the words of mount(8)
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    dash_o: Vec<String>,
    /// Ignore unknown words after -o
    #[arg(short = 's')]
    sloppy: bool,
    /// Check everything but do not mount
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted: there is no mtab
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Say what was mounted
    #[arg(short = 'v')]
    verbose: bool,
    /// Accepted: the type that mount(8) was asked for
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    fstype: Option<String>,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let called = argv.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|name| name == "mount.assetfs") {
        return match helper(&argv) {
            Ok(status) => status.into(),
            Err(why) => complain("mount.assetfs", &why, HELPER_FAILED),
        };
    }
    match assetfs(&argv) {
        Ok(status) => status.into(),
        Err(why) => complain("assetfs", &why, 1),
    }
}

fn complain(who: &str, why: &str, status: u8) -> ExitCode {
    eprintln_safe(&format!("{who}: {why}"));
    status.into()
}

fn assetfs(argv: &[OsString]) -> Ended {
    refuse_credentials(argv)?;
    let matches = Cli::command().get_matches_from(joined(argv));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command {
        Command::Mount(args) => {
            let flags = matches
                .subcommand_matches("mount")
                .map(flags_given)
                .unwrap_or_default();
            mount::mount(&mount::Wish {
                given: Given {
                    source: args.source,
                    flags,
                    dash_o: args.dash_o,
                    sloppy: false,
                },
                mountpoint: args.mountpoint,
                foreground: args.foreground,
                fake: false,
                quiet: false,
            })
        }
        Command::Umount(args) => umount::umount(&args),
        Command::Status(args) => status::status(&args),
        Command::Wait(args) => wait::wait(&args),
        Command::Unsent(args) => unsent::unsent(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Login(args) => login::login(&args, &env()),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "assetfs", &mut text);
            print_safe(&String::from_utf8_lossy(&text));
            Ok(0)
        }
        Command::Man { dir } => man(&dir),
    }
}

fn helper(argv: &[OsString]) -> Ended {
    let args = HelperArgs::parse_from(argv);
    mount::mount(&mount::Wish {
        given: Given {
            source: args.source,
            flags: Vec::new(),
            dash_o: args.dash_o,
            sloppy: args.sloppy,
        },
        mountpoint: args.mountpoint,
        foreground: false,
        fake: args.fake,
        quiet: !args.verbose,
    })
}

/// The long flags that stood on the command line, as keys and raw values.
fn flags_given(matches: &ArgMatches) -> Vec<(String, String)> {
    config::known_keys()
        .into_iter()
        .filter(|key| matches.value_source(key) == Some(clap::parser::ValueSource::CommandLine))
        .filter_map(|key| {
            let raw = matches.get_raw(&key)?.next_back()?;
            let value = raw.to_string_lossy().into_owned();
            Some((key, value))
        })
        .collect()
}

/// `--read-only off` as `--read-only=off`: a switch needs no value, so the next word is its value only
/// if it looks like one.
fn joined(argv: &[OsString]) -> Vec<OsString> {
    let switches = Settings::switches();
    let mut out: Vec<OsString> = Vec::with_capacity(argv.len());
    let mut words = argv.iter().peekable();
    while let Some(word) = words.next() {
        let mut word = word.clone();
        let value = words.peek().and_then(|next| next.to_str());
        if switches.iter().any(|switch| word == switch.as_str())
            && let Some(value) = value.filter(|value| units::switch(value).is_ok())
        {
            word.push("=");
            word.push(value);
            words.next();
        }
        out.push(word);
    }
    out
}

/// A credential as a flag is refused before anything else reads it.
fn refuse_credentials(argv: &[OsString]) -> Result<(), String> {
    for arg in argv
        .iter()
        .skip(1)
        .map_while(|arg| arg.to_str())
        .filter(|arg| *arg != "--")
    {
        let Some(flag) = arg.strip_prefix("--") else {
            continue;
        };
        let key = flag.split('=').next().unwrap_or(flag).replace('-', "_");
        if config::is_credential(&key) {
            let dir = if env().root {
                "/etc/assetfs"
            } else {
                "~/.config/assetfs"
            };
            return Err(config::on_command_line(
                &key,
                &Path::new(dir).join("config.toml"),
            ));
        }
    }
    Ok(())
}

fn man(dir: &Path) -> Ended {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
        .map_err(|why| {
            format!(
                "cannot write the manual pages into {}: {why}",
                dir.display()
            )
        })?;
    Ok(0)
}

/// The surroundings of this process.
fn env() -> Env {
    let vars: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Env {
        vars,
        root: rustix::process::geteuid().is_root(),
    }
}

/// What a mount that ended leaves in the spool, one sentence each: files that are owed, and those that failed
/// or were not closed.
fn left(kept: usize, refused: usize) -> Vec<String> {
    let told = |files: usize, what: &str| {
        (files > 0).then(|| format!("kept in the spool: {}, {what}", progress::count(files)))
    };
    [
        told(refused, "failed or not closed: assetfs unsent list"),
        told(kept, "to be sent at the next mount"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Runtime::new().map_err(|why| format!("cannot start threads: {why}"))
}

/// Prints to stdout; a reader that went away is no error.
fn print_safe(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints a line to stderr; a reader that went away is no error.
fn eprintln_safe(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// `--timeout` of the commands that wait.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    units::duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        HelperArgs::command().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_of_mount_in_help_man_page_and_completions() {
        let mut root = Cli::command();
        root.build();
        let mount = root.find_subcommand_mut("mount").unwrap();
        let help = mount.render_long_help().to_string();
        let mut page = Vec::new();
        clap_mangen::Man::new(mount.clone())
            .render(&mut page)
            .unwrap();
        let page = String::from_utf8(page).unwrap().replace('\\', "");
        let mut completions = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Cli::command(),
            "assetfs",
            &mut completions,
        );
        let completions = String::from_utf8(completions).unwrap();
        for key in config::known_keys() {
            let flag = format!("--{}", key.replace('_', "-"));
            assert!(help.contains(&flag), "{flag} in help");
            assert!(page.contains(&flag), "{flag} in the man page");
            assert!(completions.contains(&flag), "{flag} in completions");
        }
    }

    #[test]
    fn only_flags_that_were_given_are_flags() {
        let argv = [
            "assetfs",
            "mount",
            "demo:/x",
            "/m",
            "--part-size",
            "1M",
            "--read-only",
        ];
        let matches = Cli::command().get_matches_from(argv);
        let flags = flags_given(matches.subcommand_matches("mount").unwrap());
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(flags[0], pair("read_only", "true"));
        assert_eq!(flags[1..], [pair("part_size", "1M")]);
    }

    #[test]
    fn a_switch_takes_the_next_word_only_if_that_is_a_switchs_value() {
        let join = |argv: &[&str]| joined(&argv.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            join(&[
                "mount",
                "--read-only",
                "off",
                "--allow-other",
                "demo:/x",
                "on"
            ]),
            ["mount", "--read-only=off", "--allow-other", "demo:/x", "on"]
        );
    }

    #[test]
    fn a_credential_flag_is_refused_without_showing_it() {
        let argv = ["assetfs", "mount", "--api-key=hunter2"].map(OsString::from);
        let why = refuse_credentials(&argv).unwrap_err();
        assert!(
            why.contains("ASSETFS_API_KEY") && !why.contains("hunter2"),
            "{why}"
        );
    }
}
