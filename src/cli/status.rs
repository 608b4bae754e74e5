//! `assetfs status`: what mounts are doing, for people or as JSON.

use super::control::{Client, Report};
use super::progress::count;
use super::{Ended, mountpoint};
use crate::config::units::show_size;
use crate::vfs::FileState;
use clap::{Args, ValueHint};
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Where it is mounted [default: all assetfs mounts of this user]
    #[arg(value_hint = ValueHint::DirPath)]
    mountpoint: Option<PathBuf>,
    /// One JSON object per line and mount
    #[arg(long)]
    json: bool,
    /// Again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

pub(super) fn status(args: &StatusArgs) -> Ended {
    loop {
        let (text, ended) = once(args)?;
        if args.watch && !args.json && std::io::stdout().is_terminal() {
            // Clears the screen and goes to its corner.
            super::print_safe("\x1b[2J\x1b[H");
        }
        super::print_safe(&text);
        if !args.watch {
            return Ok(ended);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn once(args: &StatusArgs) -> Result<(String, u8), String> {
    let show = |report: &Report| {
        if args.json {
            serde_json::to_string(report)
                .map(|json| json + "\n")
                .map_err(|why| why.to_string())
        } else {
            Ok(for_people(report))
        }
    };
    if let Some(mountpoint) = &args.mountpoint {
        return Ok((show(&Client::report(mountpoint)?)?, 0));
    }
    let (mut text, mut ended) = (String::new(), 0);
    for mount in mountpoint::own()? {
        match Client::report(&mount.mountpoint) {
            Ok(report) => text.push_str(&show(&report)?),
            Err(why) => {
                super::eprintln_safe(&format!("assetfs: {why}"));
                ended = 1;
            }
        }
    }
    if text.is_empty() && ended == 0 && !args.json {
        "nothing is mounted\n".clone_into(&mut text);
    }
    Ok((text, ended))
}

fn for_people(report: &Report) -> String {
    let status = &report.status;
    let mut out = format!("{} on {}: ", report.source, report.mountpoint.display());
    if status.files.is_empty() {
        out.push_str("everything is sent\n");
    } else {
        let left = status.to_send_bytes;
        let _ = write!(
            out,
            "{}, {} to send",
            count(status.files.len()),
            show_size(left)
        );
        if report.up_rate > 0 {
            let mb = report.up_rate as f64 / 1e6;
            let _ = write!(
                out,
                ", {mb:.1} MB/s, {} left",
                seconds(left / report.up_rate)
            );
        }
        out.push('\n');
    }
    for file in &status.files {
        let _ = write!(out, "  {:9} {}", file.state.word(), file.path);
        let _ = match file.state {
            FileState::Uploading => write!(
                out,
                "  {} of {}",
                show_size(file.sent),
                show_size(file.size)
            ),
            _ => write!(out, "  {}", show_size(file.size)),
        };
        if let Some(error) = &file.error {
            let _ = write!(out, "  {error}");
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "  since the mount: {} committed, {} sent, {} fetched; now: {} cached, {} in the spool",
        count(usize::try_from(status.committed_files).unwrap_or(usize::MAX)),
        show_size(status.sent_bytes),
        show_size(status.fetched_bytes),
        show_size(status.cached_bytes),
        show_size(status.spool_bytes),
    );
    out
}

fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{FileStatus, Status};

    fn report(files: Vec<FileStatus>) -> Report {
        Report {
            source: "demo:/x".into(),
            mountpoint: "/m".into(),
            pid: 1,
            version: "0".into(),
            up_rate: 2_000_000,
            status: Status {
                to_send_bytes: 200_000_000,
                files,
                ..Status::default()
            },
        }
    }

    #[test]
    fn a_quiet_mount_says_that_everything_is_sent() {
        assert!(for_people(&report(vec![])).starts_with("demo:/x on /m: everything is sent\n"));
    }

    #[test]
    fn an_upload_shows_rate_time_left_and_its_error() {
        let text = for_people(&report(vec![
            FileStatus {
                path: "/a".into(),
                state: FileState::Uploading,
                size: 2048,
                sent: 1024,
                error: None,
            },
            FileStatus {
                path: "/b".into(),
                state: FileState::Unsent,
                size: 1,
                sent: 0,
                error: Some("put /b: quota used up".into()),
            },
        ]));
        assert!(
            text.contains("2 files, 190.7 MiB to send, 2.0 MB/s, 1 min 40 s left"),
            "{text}"
        );
        assert!(text.contains("uploading /a  1.0 KiB of 2.0 KiB"), "{text}");
        assert!(
            text.contains("unsent    /b  1 B  put /b: quota used up"),
            "{text}"
        );
    }
}
