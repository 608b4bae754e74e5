//! The settings of a mount: one struct, from which flags, `-o` words, keys of the configuration file,
//! variables, help, man page and completions all come. It does nothing.
//!
//! To add a setting, add a field. Its long flag `--foo-bar` makes the key `foo_bar` and the variable
//! `ASSETFS_FOO_BAR`.

use super::{promises, units};
use crate::write::{Conflict, Promise};
use clap::{Args, CommandFactory, Parser};
use std::path::PathBuf;
use std::time::Duration;

/// The settings of one mount, all layers applied.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Mount this folder below SOURCE
    #[arg(help_heading = "Places", long, value_name = "FOLDER")]
    pub subdir: Option<String>,
    /// The configuration file
    /// [default: $XDG_CONFIG_HOME/assetfs/config.toml; for root always /etc/assetfs/config.toml]
    #[arg(help_heading = "Places", long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Where the spool, the logs and the sockets are
    /// [default: $XDG_STATE_HOME/assetfs; for root always /var/lib/assetfs]
    #[arg(help_heading = "Places", long, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// The log of the background process, kept below 20 MiB with one old file beside it
    /// [default: below the state directory]; with -f the log goes to stderr unless this is set
    #[arg(help_heading = "Places", long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// How much is logged: error, warn, info, debug or trace
    #[arg(
        help_heading = "Places",
        long,
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub log_level: log::LevelFilter,
    /// Refuse every change
    #[arg(help_heading = "Appearance", long, value_name = "BOOL", value_parser = units::switch, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          action = clap::ArgAction::Set)]
    pub read_only: bool,
    /// Let other users in (needs user_allow_other in /etc/fuse.conf unless root)
    #[arg(help_heading = "Appearance", long, value_name = "BOOL", value_parser = units::switch, default_value = "false",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          action = clap::ArgAction::Set)]
    pub allow_other: bool,
    /// Owner of everything [default: who mounts]
    #[arg(help_heading = "Appearance", long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Group of everything [default: the group of who mounts]
    #[arg(help_heading = "Appearance", long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Permission bits taken away from 666 and 777
    #[arg(help_heading = "Appearance", long, value_name = "OCTAL", value_parser = units::mode, default_value = "022")]
    pub umask: u32,
    /// A directory with more entries below it is not renamed in place: mv copies it
    #[arg(
        help_heading = "Appearance",
        long,
        value_name = "N",
        default_value = "1000"
    )]
    pub rename_max: usize,
    /// Upload requests in flight
    #[arg(help_heading = "Speed and memory", long, value_name = "N", value_parser = units::count, default_value = "4")]
    pub uploads: usize,
    /// Download requests in flight
    #[arg(help_heading = "Speed and memory", long, value_name = "N", value_parser = units::count, default_value = "8")]
    pub downloads: usize,
    /// Memory for blocks read from the store, at least 1M
    #[arg(help_heading = "Speed and memory", long, value_name = "SIZE", value_parser = from_1m, default_value = "256M")]
    pub memory: u64,
    /// Most bytes in the spool, at least 1M [default: as the disk allows]
    #[arg(help_heading = "Speed and memory", long, value_name = "SIZE", value_parser = from_1m)]
    pub spool_max: Option<u64>,
    /// Most bytes per second to the store, in powers of 1000 [default: no limit]
    #[arg(help_heading = "Speed and memory", long, value_name = "RATE", value_parser = units::rate)]
    pub limit_up: Option<u64>,
    /// Most bytes per second from the store, in powers of 1000 [default: no limit]
    #[arg(help_heading = "Speed and memory", long, value_name = "RATE", value_parser = units::rate)]
    pub limit_down: Option<u64>,
    /// How long what the store said about an entry is believed
    #[arg(help_heading = "Times", long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
    pub attr_ttl: Duration,
    /// How long the absence of a name is believed
    #[arg(help_heading = "Times", long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub negative_ttl: Duration,
    /// Bound of lookup, create, mkdir, unlink and rename
    #[arg(help_heading = "Times", long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    pub name_timeout: Duration,
    /// Longest time without progress of an upload or a read
    #[arg(help_heading = "Times", long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    pub stall_timeout: Duration,
    /// Longest time for sending what is left when a signal ends the mount; umount without --timeout
    /// gives up after this time without progress
    #[arg(help_heading = "Times", long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    pub drain_timeout: Duration,
    /// What close and fsync answer for: the store has it (close), or the spool has it durably and it is
    /// sent in the background, across restarts (spool)
    #[arg(help_heading = "Promises", long, value_name = "close|spool", value_parser = promises::commit, default_value = "close")]
    pub commit: Promise,
    /// The same for paths below the mountpoint, the first pattern that matches counts:
    /// "*.log=spool;backups/**=close"
    #[arg(help_heading = "Promises", long, value_name = "PATTERNS", value_parser = promises::commit_for, default_value = "")]
    pub commit_for: promises::CommitFor,
    /// Keep files under temporary names in the spool until they are renamed
    #[arg(help_heading = "Promises", long, value_name = "BOOL", value_parser = units::switch, default_value = "true",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          action = clap::ArgAction::Set)]
    pub defer_temp: bool,
    /// The temporary names: patterns of the last part of a path
    #[arg(help_heading = "Promises", long, value_name = "PATTERNS", value_parser = promises::names, default_value = promises::TEMP_NAMES)]
    pub temp_names: promises::Names,
    /// How long a file stays unsent under a temporary name without being renamed
    #[arg(help_heading = "Promises", long, value_name = "TIME", value_parser = units::duration, default_value = "60s")]
    pub temp_idle: Duration,
    /// When somebody else changed a file between our open and our commit: keep-both (ours goes beside it),
    /// fail or overwrite
    #[arg(help_heading = "Promises", long, value_name = "WORD", value_parser = promises::conflict, default_value = "keep-both")]
    pub conflict: Conflict,
    /// PEM file with more certificate authorities to trust
    #[arg(help_heading = "Connection", long, value_name = "PATH")]
    pub ca_file: Option<PathBuf>,
    /// Bytes per part of a multipart upload, at least 64K (of the IoT File Service 5M)
    #[arg(help_heading = "ProGet", long, value_name = "SIZE", value_parser = from_64k, default_value = "8M")]
    pub part_size: u64,
    /// Take names that differ only in case for one name, as a server on Windows does
    #[arg(help_heading = "ProGet", long, value_name = "BOOL", value_parser = units::switch, default_value = "true",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          action = clap::ArgAction::Set)]
    pub case_fold: bool,
    /// Keep mode, mtime and user xattrs in the item's user metadata
    #[arg(help_heading = "ProGet", long, value_name = "BOOL", value_parser = units::switch, default_value = "true",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          action = clap::ArgAction::Set)]
    pub user_metadata: bool,
    /// Where tokens come from, of the IoT File Service and Box [default: made from the gateway's name and the
    /// tenant; https://api.box.com/oauth2/token]
    #[arg(help_heading = "IoT File Service and Box", long, value_name = "URL")]
    pub token_url: Option<String>,
    /// The API of Box [default: https://api.box.com/2.0]
    #[arg(help_heading = "IoT File Service and Box", long, value_name = "URL")]
    pub api_url: Option<String>,
    /// The API of Box for uploads [default: https://upload.box.com/api/2.0]
    #[arg(help_heading = "IoT File Service and Box", long, value_name = "URL")]
    pub upload_url: Option<String>,
}

fn from_1m(text: &str) -> Result<u64, String> {
    units::size_from(1 << 20, text)
}

fn from_64k(text: &str) -> Result<u64, String> {
    units::size_from(64 << 10, text)
}

/// For parsing the settings alone.
#[derive(Parser)]
#[command(name = "settings", no_binary_name = true, disable_help_flag = true)]
struct Alone {
    #[command(flatten)]
    settings: Settings,
}

impl Settings {
    /// Every key, in the order of the help: `foo_bar`.
    #[must_use]
    pub fn keys() -> Vec<String> {
        Alone::command()
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(|long| long.replace('-', "_")))
            .collect()
    }

    /// The long flags that are on when nothing follows: `--foo-bar`.
    #[must_use]
    pub fn switches() -> Vec<String> {
        Alone::command()
            .get_arguments()
            .filter(|arg| arg.is_require_equals_set())
            .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
            .collect()
    }

    /// The settings that these keys and values make, defaults for the rest.
    ///
    /// # Errors
    /// The key at fault and what is wrong with its value.
    pub fn of<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, (String, String)> {
        let mut argv = Vec::new();
        for (key, value) in pairs {
            let flag = format!("--{}={value}", key.replace('_', "-"));
            if let Err(error) = Alone::try_parse_from([&flag]) {
                let why = std::error::Error::source(&error).map_or_else(
                    || format!("\"{value}\" is not a valid value"),
                    ToString::to_string,
                );
                return Err((key.to_owned(), why));
            }
            argv.push(flag);
        }
        Alone::try_parse_from(&argv)
            .map(|alone| alone.settings)
            .map_err(|error| (String::new(), error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_help_text() {
        for arg in Alone::command().get_arguments() {
            assert!(arg.get_help().is_some(), "{}", arg.get_id());
        }
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let settings = Settings::of([]).unwrap();
        assert_eq!(settings.memory, 256 << 20);
        assert_eq!(settings.name_timeout, Duration::from_secs(10));
        assert_eq!(settings.part_size, 8 << 20);
        assert!(!settings.read_only);
    }

    #[test]
    fn a_wrong_value_names_its_key_and_what_would_be_right() {
        let (key, why) = Settings::of([("memory", "lots")]).unwrap_err();
        assert_eq!(key, "memory");
        assert!(why.contains("is not a size: 4096"), "{why}");
        let (key, _) = Settings::of([("uid", "root")]).unwrap_err();
        assert_eq!(key, "uid");
    }

    #[test]
    fn sizes_that_nothing_works_with_are_refused() {
        for (key, small, least) in [
            ("part_size", "0", "64K"),
            ("memory", "1", "1M"),
            ("spool_max", "100K", "1M"),
        ] {
            let (_, why) = Settings::of([(key, small)]).unwrap_err();
            assert!(why.ends_with(&format!("at least {least}")), "{key}: {why}");
            assert!(Settings::of([(key, least)]).is_ok(), "{key}");
        }
    }

    #[test]
    fn switches_take_words() {
        assert!(Settings::of([("read_only", "yes")]).unwrap().read_only);
        assert!(!Settings::of([("read_only", "off")]).unwrap().read_only);
    }
}
