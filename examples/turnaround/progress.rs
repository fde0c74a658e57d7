//! A progress bar on standard error, where that is a terminal.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use timely_agents::cluster::Control;

/// How far the file is read. Clones show the same bar.
#[derive(Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
}

impl Progress {
    /// A bar over the bytes of `path`; without a terminal, and in processes that do not read, nothing is drawn.
    pub(crate) fn new(reads: bool, path: &Path) -> Self {
        let target = if reads { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let length = fs::metadata(path).map_or(0, |file| file.len());
        let bar = ProgressBar::with_draw_target(Some(length), target);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}") {
            bar.set_style(style);
        }
        Progress { bar, bytes: Arc::default() }
    }

    /// Where the reader counts.
    pub(crate) fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// Draws the bar as far as has been read; drawn at most a few times a second.
    pub(crate) fn show(&self) {
        self.bar.set_position(self.bytes.load(Ordering::Relaxed));
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// The same when the job fails, so that the error stands alone.
    pub(crate) fn clear_on_failure(&self, control: &Control) {
        let bar = self.bar.clone();
        control.on_failure(move || bar.finish_and_clear());
    }
}
