//! Progress of long work, on standard error: a bar on a terminal, and nothing elsewhere.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar of bytes.
    pub(crate) fn bytes(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// A count of records, of which the number is not known before.
    pub(crate) fn records(what: &'static str) -> Self {
        Self::new(what, "{msg} {spinner} {human_pos} records, {per_sec}")
    }

    fn new(what: &'static str, template: &str) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_message(what);
        let style = ProgressStyle::with_template(template);
        Progress(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// So much of so much is done.
    pub(crate) fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.inc(more);
    }
}

impl Drop for Progress {
    /// The line of the bar is empty again, for the output that follows.
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
