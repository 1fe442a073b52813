//! What `seaway lab up` shows while it works: a moving line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Stream};

/// The display, on standard error.
pub(crate) struct Display {
    spinner: Option<ProgressBar>,
    begun: Instant,
}

impl Display {
    pub(crate) fn new() -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(80));
            spinner.set_message("starting");
            spinner
        });
        Self { spinner, begun: Instant::now() }
    }

    /// A part is there.
    pub(crate) fn done(&mut self, what: &str) {
        let mark = "✓".if_supports_color(Stream::Stderr, |mark| mark.green()).to_string();
        self.line(&format!("{mark} {what:<18} {:5.2} s", self.begun.elapsed().as_secs_f64()));
    }

    /// Something worth knowing.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// The last line.
    pub(crate) fn finish(&mut self, text: &str) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        eprintln!("{text}");
    }

    fn line(&self, text: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(text),
            None => eprintln!("{text}"),
        }
    }
}
