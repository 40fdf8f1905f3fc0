//! What can be chosen of the system's pressure sources.

use std::path::PathBuf;
use std::time::Duration;

use super::psi_options::PsiOptions;
use aquifer_backend::{Error, ErrorKind};

/// What can be chosen of the system's pressure sources. The default is for the machine as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PressureOptions {
    /// The root of the file system whose `/proc` and `/sys` are read: `/` unless a test or a container has them elsewhere.
    pub root: PathBuf,
    /// When stalls are pressure.
    pub psi: PsiOptions,
    /// How often is read what nobody tells: 1 s. More than 0; at most [`PsiOptions::window`], or polled stalls would be missed.
    pub interval: Duration,
    /// For how long an event of a control group counts (a notice of version 1, out of memory): 2 s. More than 0.
    pub hold: Duration,
}

impl Default for PressureOptions {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            psi: PsiOptions::default(),
            interval: Duration::from_secs(1),
            hold: Duration::from_secs(2),
        }
    }
}

impl PressureOptions {
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`].
    pub(super) fn validate(&self, operation: &'static str) -> Result<(), Error> {
        self.psi.validate(operation)?;
        let bad = |message| Err(Error::new(ErrorKind::Configuration, operation, message));
        if self.interval.is_zero() || self.interval > self.psi.window {
            let (interval, window) = (self.interval, self.psi.window);
            return bad(format!(
                "an interval of {interval:?}; give more than 0 and at most the window, {window:?}"
            ));
        }
        if self.hold.is_zero() {
            return bad("events that count for no time; give `hold` more than 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_that_make_sense_are_valid() {
        let options = PressureOptions::default();
        options.validate("test").unwrap();
        for interval in [Duration::ZERO, Duration::from_millis(2001), Duration::MAX] {
            let error = PressureOptions { interval, ..options.clone() }.validate("test").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        }
        let error = PressureOptions { hold: Duration::ZERO, ..options.clone() }.validate("test").unwrap_err();
        assert!(error.message().contains("hold"), "{error}");
        let psi = PsiOptions { rules: Vec::new(), ..PsiOptions::default() };
        assert!(PressureOptions { psi, ..options }.validate("test").is_err());
    }
}
