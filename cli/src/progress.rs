//! A line on the terminal that shows how far a trace, or a measurement, has come.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// The progress of one trace, on the standard error output. Shows nothing where that is no terminal. Cleared when
/// dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    done: Arc<AtomicU64>,
}

impl Progress {
    /// Shows that a trace is being read.
    pub(crate) fn reading(path: &Path, is_wanted: bool) -> Self {
        let bar = if is_wanted { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_message(format!("reading {}", path.display()));
        // A hidden bar must not cost a thread either.
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, done: Arc::default() }
    }

    /// Where the work of [`Progress::replaying`] writes how many events are done.
    pub(crate) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// Shows how many of `event_count` events are done while `work` runs, from none. Another thread draws, so that the
    /// work's time is its own.
    pub(crate) fn replaying<T>(&self, name: &str, event_count: usize, work: impl FnOnce() -> T) -> T {
        if self.bar.is_hidden() {
            return work();
        }
        self.done.store(0, Ordering::Relaxed);
        self.bar.disable_steady_tick();
        self.bar.set_position(0);
        self.bar.set_length(event_count as u64);
        self.bar.set_message(format!("replaying {name}"));
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} events") {
            self.bar.set_style(style);
        }
        thread::scope(|scope| {
            // `work_runs` is dropped when the work is over, be it by a panic.
            let (work_runs, work_ends) = channel::<()>();
            let draw = move || {
                while work_ends.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    self.bar.set_position(self.done.load(Ordering::Relaxed));
                }
            };
            // Without a thread to draw there is no progress to see, and nothing else is amiss.
            let _ = thread::Builder::new().spawn_scoped(scope, draw);
            let result = work();
            drop(work_runs);
            result
        })
    }
}

/// The progress of a measurement, on the standard error output, drawn between what is timed and never meanwhile. Shows nothing where
/// that is no terminal. Cleared when dropped.
pub(crate) struct Steps {
    bar: ProgressBar,
}

impl Steps {
    pub(crate) fn new(is_wanted: bool) -> Self {
        // Without a thread that draws: it would take a processor from what is measured.
        let bar = if is_wanted { ProgressBar::new(0) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows that `done` of `count` steps are done, and the name of the next.
    pub(crate) fn show(&self, done: usize, count: usize, name: impl Into<String>) {
        self.bar.set_length(count as u64);
        self.bar.set_message(name.into());
        self.bar.set_position(done as u64);
        self.bar.force_draw();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
