//! How far sending has come: a bar on a terminal, a line now and then elsewhere.

use crate::config::units::show_size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of a drain on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    first_sent: Option<u64>,
    last_line: Option<Instant>,
}

impl Progress {
    /// Nothing is shown before the first [`Progress::show`].
    pub(super) fn new() -> Self {
        Progress {
            bar: None,
            first_sent: None,
            last_line: None,
        }
    }

    /// Shows that `files` are left, `sent` bytes since the mount began, `to_send` bytes to go.
    pub(super) fn show(&mut self, files: usize, sent: u64, to_send: u64) {
        if files == 0 && to_send == 0 && self.first_sent.is_none() {
            return;
        }
        let first = *self.first_sent.get_or_insert(sent);
        let done = sent.saturating_sub(first);
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(new_bar);
            bar.set_length(done + to_send);
            bar.set_position(done);
            bar.set_message(count(files));
        } else if self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_EVERY)
        {
            self.last_line = Some(Instant::now());
            super::eprintln_safe(&format!(
                "{} left, {} to send",
                count(files),
                show_size(to_send)
            ));
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)
}

/// "1 file", "3 files".
pub(super) fn count(files: usize) -> String {
    format!("{files} file{}", if files == 1 { "" } else { "s" })
}
