//! `assetfs umount`: asks the mount's process to send what is left and to end, and waits for both.

use super::control::{Answer, Client, Request, unexpected};
use super::progress::Progress;
use super::{Ended, KEPT};
use clap::{Args, ValueHint};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct UmountArgs {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    mountpoint: PathBuf,
    /// Longest time for sending what is left [default: as long as there is progress]
    #[arg(long, value_name = "TIME", value_parser = super::parse_timeout)]
    timeout: Option<Duration>,
}

pub(super) fn umount(args: &UmountArgs) -> Ended {
    let limit_ms = args
        .timeout
        .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let shown = args.mountpoint.display();
    let mut client = Client::ask(&args.mountpoint, &Request::Umount { limit_ms })?;
    let mut progress = Progress::new();
    let (kept, refused, pid) = loop {
        match client.next() {
            Ok(Some(Answer::Draining {
                files,
                sent_bytes,
                to_send_bytes,
            })) => {
                progress.show(files, sent_bytes, to_send_bytes);
            }
            Ok(Some(Answer::Unmounted { kept, refused, pid })) => break (kept, refused, pid),
            other => {
                progress.clear();
                return Err(unexpected(&args.mountpoint, other?.as_ref()));
            }
        }
    };
    progress.clear();
    // The connection closes shortly before the process is gone, and with it the lock on its spool.
    let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    while client.next().is_ok_and(|answer| answer.is_some()) {}
    if let Some(process) = process {
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], None);
    }
    let left = super::left(kept, refused);
    for sentence in &left {
        super::eprintln_safe(&format!("assetfs: {shown} is unmounted; {sentence}"));
    }
    Ok(if left.is_empty() { 0 } else { KEPT })
}
