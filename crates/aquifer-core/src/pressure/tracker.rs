//! One source's level over time: up at once, down late.

use super::config::PressureConfig;
use crate::clock::whole_ms;
use aquifer_backend::{PressureLevel, PressureReading};

/// Follows one source.
///
/// A rise is taken at once, by as many levels as it is. A fall is taken when readings have been below the level, less the margin,
/// for the whole of [`PressureConfig::fall_after`]; then to the highest level that they reached in that time. So a use that
/// swings by less than the margin round a threshold changes the level once, and any other at most once down in that time.
///
/// Times are in milliseconds. They may stand still; should one go back, no time is taken to have passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracker {
    level: PressureLevel,
    /// Since when readings have been lower, and the highest of them.
    lower: Option<(u64, PressureLevel)>,
}

impl Tracker {
    pub(crate) fn level(&self) -> PressureLevel {
        self.level
    }

    /// Takes a reading in, and answers the level.
    pub(crate) fn update(
        &mut self,
        config: &PressureConfig,
        now_ms: u64,
        reading: PressureReading,
    ) -> PressureLevel {
        let raw = config.level_of(reading);
        if raw > self.level {
            self.level = raw;
            self.lower = None;
            return self.level;
        }
        let held = config.level_below(reading, config.margin).min(self.level);
        if held == self.level {
            self.lower = None;
            return self.level;
        }
        let (since_ms, highest) = match self.lower {
            // A clock that went back begins anew.
            Some((since_ms, highest)) if since_ms <= now_ms => (since_ms, highest.max(held)),
            _ => (now_ms, held),
        };
        let is_over = now_ms - since_ms >= whole_ms(config.fall_after);
        if is_over {
            self.level = highest;
            self.lower = (held < highest).then_some((now_ms, held));
        } else {
            self.lower = Some((since_ms, highest));
        }
        self.level
    }

    /// The source is gone: what it said no longer counts.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use PressureLevel::{Critical, Emergency, Moderate, Normal, Warning};
    use proptest::prelude::*;
    use std::time::Duration;

    fn used(permille: u64) -> PressureReading {
        PressureReading::Usage { used_bytes: permille, limit_bytes: 1000 }
    }

    #[test]
    fn every_step_up_is_told_at_once() {
        let (config, mut tracker) = (PressureConfig::default(), Tracker::default());
        let levels = [860, 910, 960, 990].map(|use_| tracker.update(&config, 0, used(use_)));
        assert_eq!(levels, [Moderate, Warning, Critical, Emergency]);
        let mut tracker = Tracker::default();
        assert_eq!(tracker.update(&config, 0, used(1000)), Emergency);
    }

    #[test]
    fn a_level_ends_after_a_quiet_time_at_the_highest_reached_in_it() {
        let (config, mut tracker) = (PressureConfig::default(), Tracker::default());
        assert_eq!(tracker.update(&config, 0, used(990)), Emergency);
        assert_eq!(tracker.update(&config, 100, used(100)), Emergency);
        assert_eq!(tracker.update(&config, 1000, used(890)), Emergency);
        assert_eq!(tracker.update(&config, 2099, used(100)), Emergency);
        // 0.89 is within the margin below Warning's 0.90.
        assert_eq!(tracker.update(&config, 2100, used(100)), Warning);
        assert_eq!(tracker.update(&config, 4099, used(100)), Warning);
        assert_eq!(tracker.update(&config, 4100, used(100)), Normal);
    }

    #[test]
    fn a_clock_that_jumps_changes_no_level_too_early() {
        let (config, mut tracker) = (PressureConfig::default(), Tracker::default());
        tracker.update(&config, 10_000, used(960));
        assert_eq!(tracker.update(&config, 10_000, used(0)), Critical);
        assert_eq!(tracker.update(&config, 0, used(0)), Critical);
        assert_eq!(tracker.update(&config, 1_999, used(0)), Critical);
        assert_eq!(tracker.update(&config, u64::MAX, used(0)), Normal);
    }

    proptest! {
        /// A use that swings by 2 % round any threshold, however fast, changes the level at most once in each time that a level
        /// takes to end; here in fact once in all.
        #[test]
        fn no_flapping(
            threshold in 0_usize..4,
            steps in prop::collection::vec((1_u64..700, -10_i64..=10), 1..400),
        ) {
            let (config, mut tracker) = (PressureConfig::default(), Tracker::default());
            let centre = (config.thresholds[threshold] * 1000.0) as i64;
            let (mut now_ms, mut changes, mut level) = (0, Vec::new(), Normal);
            for (passed_ms, swing) in steps {
                now_ms += passed_ms;
                let next = tracker.update(&config, now_ms, used((centre + swing) as u64));
                if std::mem::replace(&mut level, next) != next && now_ms > passed_ms {
                    changes.push(now_ms);
                }
            }
            prop_assert!(changes.len() <= 1, "{changes:?}");
        }

        /// Whatever the use does, a level falls at most once in each time that it takes to end, and is never below the use.
        #[test]
        fn falls_are_rare_and_levels_never_too_low(
            steps in prop::collection::vec((1_u64..700, 0_u64..1100), 1..400),
        ) {
            let config = PressureConfig { fall_after: Duration::from_millis(1500), ..PressureConfig::default() };
            let (mut tracker, mut now_ms, mut level, mut last_fall) = (Tracker::default(), 0, Normal, None);
            for (passed_ms, use_) in steps {
                now_ms += passed_ms;
                let next = tracker.update(&config, now_ms, used(use_));
                prop_assert!(next >= config.level_of(used(use_)));
                if next < level {
                    prop_assert!(last_fall.is_none_or(|last: u64| now_ms - last >= 1500));
                    last_fall = Some(now_ms);
                }
                level = next;
            }
        }
    }
}
