//! When stalls are pressure.

use std::time::Duration;

use aquifer_backend::{Error, ErrorKind, PressureLevel};

/// What the kernel counts as stalled (kernel documentation, accounting/psi).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PsiStall {
    /// At least one task waits for memory.
    Some,
    /// Every task that could run waits for memory: nothing gets done.
    Full,
}

/// From how much stall on it is which level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PsiRule {
    /// Whose stall.
    pub stall: PsiStall,
    /// The share of the window, in percent: 1 to 100.
    pub percent: u32,
    /// The level from there on. The highest of all rules that are met counts.
    pub level: PressureLevel,
}

/// When stalls are pressure.
///
/// The defaults are near to what others act on: systemd asks services to give memory back at `some` 10 % of 2 s, and ends some at
/// `full` 60 % for half a minute; Android's low memory killer begins at `some` 7 % of 1 s. Where one task is alone in its group
/// `full` is `some`, and one that only streams a file through a limit stalls for 5 to 10 % (measured on Linux 6.18): so
/// `full` is critical only well above that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PsiOptions {
    /// The time of which shares are taken: 2 s. A multiple of 2 s, which is all that the kernel grants to a process without
    /// `CAP_SYS_RESOURCE`, and at most 10 s.
    pub window: Duration,
    /// `some` 5 %: moderate; `some` 10 %: warning; `full` 15 %: critical; `full` 40 %: emergency. The lowest share must be
    /// one of `some`: it is what the kernel is asked to wake for.
    pub rules: Vec<PsiRule>,
}

impl Default for PsiOptions {
    fn default() -> Self {
        let rule = |stall, percent, level| PsiRule { stall, percent, level };
        Self {
            window: Duration::from_secs(2),
            rules: vec![
                rule(PsiStall::Some, 5, PressureLevel::Moderate),
                rule(PsiStall::Some, 10, PressureLevel::Warning),
                rule(PsiStall::Full, 15, PressureLevel::Critical),
                rule(PsiStall::Full, 40, PressureLevel::Emergency),
            ],
        }
    }
}

#[cfg(target_os = "linux")]
impl PsiRule {
    /// The least stall within a window that meets it.
    pub(super) fn least(&self, window: Duration) -> Duration {
        window * self.percent / 100
    }
}

impl PsiOptions {
    #[cfg(target_os = "linux")]
    /// The least stall of `some` that is any level at all.
    pub(super) fn least(&self) -> Duration {
        let some = self.rules.iter().filter(|rule| rule.stall == PsiStall::Some);
        some.map(|rule| rule.least(self.window)).min().unwrap_or(self.window)
    }

    pub(super) fn validate(&self, operation: &'static str) -> Result<(), Error> {
        let bad = |message| Err(Error::new(ErrorKind::Configuration, operation, message));
        let window = self.window;
        if window.is_zero()
            || window > Duration::from_secs(10)
            || window.subsec_nanos() != 0
            || !window.as_secs().is_multiple_of(2)
        {
            return bad(format!("a window of {window:?}; the kernel takes 2, 4, 6, 8 or 10 seconds"));
        }
        if let Some(rule) = self.rules.iter().find(|rule| !(1..=100).contains(&rule.percent)) {
            return bad(format!("a rule for {} % of a window; give 1 to 100", rule.percent));
        }
        if self.rules.iter().any(|rule| rule.level == PressureLevel::Normal) {
            return bad("a rule for the level normal, which needs none; give one above it".into());
        }
        let lowest = self.rules.iter().map(|rule| rule.percent).min();
        let lowest_some =
            self.rules.iter().filter(|rule| rule.stall == PsiStall::Some).map(|rule| rule.percent).min();
        if lowest.is_none() || lowest != lowest_some {
            return bad(
                "the rule with the lowest share must be one for `some`, which is what wakes; give one, at or below all others"
                    .into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut PsiOptions)) -> String {
        let mut options = PsiOptions::default();
        change(&mut options);
        let error = options.validate("test").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        error.message().to_owned()
    }

    #[test]
    fn only_what_the_kernel_takes_from_everybody_is_valid() {
        PsiOptions::default().validate("test").unwrap();
        for millis in [0, 1, 500, 1000, 2001, 3000, 12_000, u64::MAX] {
            let message = refused(|options| options.window = Duration::from_millis(millis));
            assert!(message.contains("2, 4, 6, 8 or 10 seconds"), "{message}");
        }
        for secs in [2, 4, 6, 8, 10] {
            PsiOptions { window: Duration::from_secs(secs), ..PsiOptions::default() }
                .validate("test")
                .unwrap();
        }
    }

    #[test]
    fn rules_must_make_sense() {
        for percent in [0, 101, u32::MAX] {
            assert!(refused(|options| options.rules[1].percent = percent).contains("1 to 100"));
        }
        assert!(refused(|options| options.rules[0].level = PressureLevel::Normal).contains("normal"));
        assert!(refused(|options| options.rules.clear()).contains("`some`"));
        assert!(refused(|options| drop(options.rules.drain(..2))).contains("`some`"));
        assert!(refused(|options| options.rules[2].percent = 4).contains("`some`"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_lowest_share_of_some_wakes() {
        assert_eq!(PsiOptions::default().least(), Duration::from_millis(100));
    }
}
