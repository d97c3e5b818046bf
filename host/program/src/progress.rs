//! The progress of copying a disk: a bar on a terminal, lines otherwise. Both programs use this file.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long a copy takes before it is worth a progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time between two lines, if there is no progress bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The time between two updates of the progress bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What the progress bar shows.
const STYLE: &str =
    "{prefix} [{bar:30}] {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// The same, if it is not known how much there is.
const STYLE_WITHOUT_END: &str = "{prefix} {bytes}, {binary_bytes_per_sec}";

/// Shows the progress.
pub(crate) struct Progress {
    /// What is done.
    what: &'static str,
    /// The number of bytes, if it is known.
    size: Option<u64>,
    begun: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
    on_terminal: bool,
    /// Prints or logs a line.
    print: fn(fmt::Arguments<'_>),
}

impl Progress {
    pub(crate) fn new(
        what: &'static str,
        size: Option<u64>,
        print: fn(fmt::Arguments<'_>),
    ) -> Self {
        let begun = Instant::now();
        let on_terminal = io::stderr().is_terminal();
        Self { what, size, begun, shown: begun, bar: None, on_terminal, print }
    }

    /// Tells how many bytes are done.
    pub(crate) fn tell(&mut self, done: u64) {
        let now = Instant::now();
        if self.on_terminal {
            if now - self.begun >= PATIENCE {
                let new = || bar(self.what, self.size, now - self.begun);
                self.bar.get_or_insert_with(new).set_position(done);
            }
        } else if now - self.shown >= LINE_EVERY {
            self.shown = now;
            match self.size {
                Some(size) => (self.print)(format_args!("{}: {done} of {size} bytes", self.what)),
                None => (self.print)(format_args!("{}: {done} bytes", self.what)),
            }
        }
    }

    /// Removes the bar. Returns how long it took.
    pub(crate) fn end(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed()
    }
}

fn bar(what: &'static str, size: Option<u64>, elapsed: Duration) -> ProgressBar {
    let style =
        ProgressStyle::with_template(if size.is_some() { STYLE } else { STYLE_WITHOUT_END });
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let hertz = (1000 / DRAW_EVERY.as_millis()) as u8;
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr_with_hz(hertz));
    bar.with_style(style.progress_chars("=> ")).with_prefix(what).with_elapsed(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        for (style, size) in [(STYLE, Some(10)), (STYLE_WITHOUT_END, None)] {
            assert!(ProgressStyle::with_template(style).is_ok());
            let bar = bar("copy", size, PATIENCE);
            bar.set_position(5);
            assert_eq!((bar.position(), bar.length()), (5, size));
        }
    }
}
